"""How many of a batch's labels an attack named, in whatever order: an update does not say which example came first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fedseal.metric.scores import Baseline, LabelScore


def score_labels(true: Sequence[int], named: Sequence[int] | None, classes: int | None) -> LabelScore | None:
    """The share of the true labels that are among the named ones, each of which serves for one example only.

    Blind guessers name as many labels as the attack did, so that naming more than there are gains nothing.

    Args:
        true: the batch's labels.
        named: what the attack says, in any order; entries below 0 name nothing. None where it gave no labels.
        classes: how many there are; None leaves the guesses that need it without a value.

    Returns:
        None where the attack gave no labels.

    >>> found = score_labels([3, 3, 5, 7], [5, 3, 8, 9], classes=10)
    >>> found.right, found.of, found.value
    (2, 4, 0.5)
    >>> [(guess.name, round(guess.value, 3)) for guess in found.baselines]
    [('uniform guesses', 0.271), ('all classes alike', 0.3), ('luckiest single class', 0.5)]
    """
    if named is None:
        return None
    wanted, said = Counter(true), Counter(label for label in named if label >= 0)
    right = (wanted & said).total()
    return LabelScore(right, len(true), _baselines(wanted, said.total(), classes))


def _baselines(wanted: Counter[int], tries: int, classes: int | None) -> tuple[Baseline, ...]:
    """Expected shares of guessers without the update, and the share of one that knows the most frequent class."""
    from scipy.stats import binom  # imported late: it takes longer than all of fedseal's own modules

    total = wanted.total()
    counts = sorted(wanted.values())
    constant = min(tries, counts[-1]) / total
    uniform = even = None
    if classes is not None:
        # min(n, X) is the sum over k = 1..n of [X >= k]
        uniform = sum(float(binom.sf(k - 1, tries, 1 / classes)) for n in counts for k in range(1, n + 1))
        each, rest = divmod(tries, classes)  # every class so often, and `rest` of them, by lot, once more
        more = rest / classes
        even = sum((1 - more) * min(n, each) + more * min(n, each + 1) for n in counts)
    return (
        Baseline("uniform guesses", None if uniform is None else uniform / total),
        Baseline("all classes alike", None if even is None else even / total),
        Baseline("luckiest single class", constant),
    )
