"""How much of the truth a reconstruction holds, never without what a blind guess holds.

Nothing here knows how the reconstruction was made, and no attack can import from here.
"""

from fedseal.metric.grade import score
from fedseal.metric.scores import Baseline, Identification, SampleScores, Score, Scores

__all__ = ["Baseline", "Identification", "SampleScores", "Score", "Scores", "score"]
