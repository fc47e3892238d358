"""How many of a batch's labels an attack named, in whatever order: an update does not say which example came first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from fedseal.metric.scores import Baseline, LabelScore

Targets = Literal["classes", "positions", "soft", "findings", "numbers"]


def targets_of(labels: Tensor) -> Targets:
    """What labels say of an example: a class, one for each position, probabilities, findings (0 or 1), or numbers.

    Args:
        labels: `(N,)` or `(N, ...)`. Rows of several numbers that add up to 1 are probabilities of classes.

    >>> import torch
    >>> targets_of(torch.tensor([3, 1])), targets_of(torch.tensor([[1.0, 1.0, 0.0]])), targets_of(torch.tensor([[0.3]]))
    ('classes', 'findings', 'numbers')
    """
    if not labels.is_floating_point():
        return "classes" if labels.ndim == 1 else "positions"
    rows = labels.double().reshape(len(labels), -1)
    if rows.shape[1] > 1 and bool((rows >= 0).all()) and bool(((rows.sum(1) - 1).abs() < 1e-2).all()):
        return "soft"
    return "findings" if binary(labels) else "numbers"


def binary(labels: Tensor) -> bool:
    """Whether there is nothing but 0 and 1 in them."""
    return bool(((labels == 0) | (labels == 1)).all())


def score_findings(true: Tensor, named: Tensor | None) -> LabelScore | None:
    """The share of the examples' findings that are right, in whatever order the attack named the examples.

    Blind guessers answer for as many examples as the attack did.

    Args:
        true: `(N, outputs)` of 0 and 1.
        named: `(M, outputs)`; a finding is there from 0.5 on. None where the attack gave none.

    >>> import torch
    >>> found = score_findings(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.9, 0.8, 0.1]]))
    >>> found.right, found.of
    (2, 3)
    >>> [(guess.name, round(guess.value, 3)) for guess in found.baselines]
    [('uniform guesses', 0.5), ('no findings', 0.667), ("each finding's commoner answer", 1.0)]
    """
    from scipy.optimize import linear_sum_assignment  # imported late: it takes longer than all of fedseal's own modules

    if named is None or named.reshape(len(named), -1).shape[1] != true.reshape(len(true), -1).shape[1]:
        return None
    wanted, said = true.reshape(len(true), -1) > 0.5, named.reshape(len(named), -1) >= 0.5
    agreeing = (wanted[:, None] == said[None]).sum(2).cpu()
    rows, columns = linear_sum_assignment(agreeing.numpy(), maximize=True)
    answered = len(rows) / len(wanted)
    there = wanted.double().mean(0)
    shares = {
        "uniform guesses": 0.5,
        "no findings": 1 - float(there.mean()),
        "each finding's commoner answer": float(there.maximum(1 - there).mean()),
    }
    baselines = tuple(Baseline(name, share * answered) for name, share in shares.items())
    return LabelScore(int(agreeing[rows, columns].sum()), wanted.numel(), baselines)


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
