"""How much of the truth a reconstruction holds, never without what a blind guess holds.

Nothing here knows how the reconstruction was made, and no attack can import from here.
"""

from fedseal.metric.grade import Grader, score
from fedseal.metric.labels import score_labels
from fedseal.metric.scores import Baseline, Identification, LabelScore, SampleScores, Score, Scores

__all__ = [
    "Baseline",
    "Grader",
    "Identification",
    "LabelScore",
    "SampleScores",
    "Score",
    "Scores",
    "score",
    "score_labels",
]
