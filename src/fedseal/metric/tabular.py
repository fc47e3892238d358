"""How much of a table's rows a reconstruction holds, cell by cell, beside what a blind guess holds.

A cell of a categorical column is right if it is equal; one of a continuous column if it is within 0.319 standard
deviations, as TabLeak counts (Vero et al., ICML 2023, arXiv:2210.01785).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedseal.errors import BadConfig, UnfitBatch
from fedseal.intervals import exact
from fedseal.metric.scores import Baseline
from fedseal.modality.tabular import Categorical, Tabular
from fedseal.types import Batch, Reconstruction

TOLERANCE = 0.319  # standard deviations
CONSTANTS = 1000  # unrelated rows that the best constant is looked for in
GUESSES = ("column mode and mean", "best constant")


@dataclass(frozen=True)
class RowScore:
    """How well one true row was recovered.

    Args:
        index: its place in the batch.
        matched: the place of the reconstructed row that was matched to it, None if there is none.
        right: for each column whether its cell is right; all wrong where nothing was matched.
        blind: for each blind guess the same, None without unrelated rows.
        label_correct: None where the attack gave no label.
    """

    index: int
    matched: int | None
    right: tuple[bool, ...]
    blind: tuple[tuple[bool, ...], ...] | None
    label_correct: bool | None

    @property
    def value(self) -> float:
        """Share of the row's cells that are right."""
        return sum(self.right) / len(self.right)


@dataclass(frozen=True)
class ColumnScore:
    """How many cells of a column are right.

    Args:
        kind: "continuous" or "categorical".
        interval: of the share, 95 %, exact (Clopper and Pearson 1934).
    """

    name: str
    kind: str
    right: int
    of: int
    interval: tuple[float, float]
    baselines: tuple[Baseline, ...]

    @property
    def value(self) -> float:
        """Share of the column's cells that are right."""
        return self.right / self.of


@dataclass(frozen=True)
class TableScores:
    """The scores of a reconstructed table, one entry for each true row.

    Args:
        found: whether the attack gave any rows; if not, every value is None.
        names, kinds: of the columns.
    """

    rows: tuple[RowScore, ...]
    found: bool
    names: tuple[str, ...]
    kinds: tuple[str, ...]

    @property
    def accuracy(self) -> float | None:
        """Mean over rows and columns of the cells that are right: TabLeak's score."""
        return sum(row.value for row in self.rows) / len(self.rows) if self.found else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the accuracy with rows as trials.

        The exact one of a share, which is too wide if anything: a row's mean over cells varies less than a yes or no.
        """
        return exact(sum(row.value for row in self.rows), len(self.rows)) if self.found else None

    @property
    def whole_rows(self) -> int:
        """Rows of which every cell is right."""
        return sum(all(row.right) for row in self.rows)

    @property
    def baselines(self) -> tuple[Baseline, ...]:
        """The accuracy of those who never saw the update."""
        return _baselines(self.rows, range(len(self.names)))

    @property
    def columns(self) -> tuple[ColumnScore, ...]:
        """Scores by column; empty where the attack gave no rows."""
        if not self.found:
            return ()
        scores, of = [], len(self.rows)
        for place, (name, kind) in enumerate(zip(self.names, self.kinds, strict=True)):
            right = sum(row.right[place] for row in self.rows)
            blind = _baselines(self.rows, range(place, place + 1))
            scores.append(ColumnScore(name, kind, right, of, exact(right, of), blind))
        return tuple(scores)


def score_table(
    reconstruction: Reconstruction, batch: Batch, *, modality: Tabular, unrelated: Tensor | None = None
) -> TableScores:
    """Score every true row against the reconstructed row matched to it, beside what blind guesses score.

    Rows are matched one to one so that the most cells are right (Kuhn, 1955), near ones before far ones among equals.

    Args:
        reconstruction: encoded rows `(M, width)`, or None.
        batch: the truth, encoded rows `(N, width)`.
        modality: the table's schema.
        unrelated: encoded rows `(G, width)` that are not in the batch. They give the standard deviation of every
            continuous column and the blind guesses; without them the schema's deviation holds and no blind guess is
            made.

    Raises:
        UnfitBatch: the batch or the reconstruction is not of the schema's width.
        BadConfig: the unrelated rows are not, or there are none.

    >>> import fedseal as fs
    >>> from fedseal.modality.tabular import Categorical, Continuous, Tabular
    >>> table = Tabular((Continuous("age", 0, 100, mean=40, std=20), Categorical("sex", ("f", "m"))))
    >>> rows = table.encode([{"age": 30, "sex": "m"}, {"age": 70, "sex": "f"}])
    >>> guess = table.encode([{"age": 72, "sex": "f"}, {"age": 50, "sex": "m"}])
    >>> outcome = fs.Outcome("budget", "told", None, 0, 0.0)
    >>> found = fs.Reconstruction(guess, None, outcome)
    >>> scores = score_table(found, fs.Batch(rows, torch.tensor([0, 1])), modality=table, unrelated=rows)
    >>> scores.accuracy, [row.matched for row in scores.rows], [column.value for column in scores.columns]
    (0.75, [1, 0], [0.5, 1.0])
    """
    for what, inputs in (("batch", batch.inputs), ("reconstruction", reconstruction.inputs)):
        if inputs is not None and tuple(inputs.shape[1:]) != modality.shape:
            raise UnfitBatch(f"the {what}'s rows have shape {tuple(inputs.shape)}", f"give (N, {modality.shape[0]})")
    if unrelated is not None and (tuple(unrelated.shape[1:]) != modality.shape or len(unrelated) == 0):
        raise BadConfig(f"the unrelated rows have shape {tuple(unrelated.shape)}", f"give (G, {modality.shape[0]})")
    truths = _decoded(modality, batch.inputs)
    others = None if unrelated is None else _decoded(modality, unrelated)
    tolerance = tolerances(modality, others)
    blind = None if others is None else [within(truths, guess, tolerance) for guess in blind_guesses(modality, others)]
    places, guesses = _guesses(modality, reconstruction)
    matched = matched_rows(truths, guesses, tolerance)
    labels = batch.labels.argmax(-1) if batch.labels.ndim == 2 else batch.labels
    rows = []
    for index, column in enumerate(matched):
        place = None if column is None else places[column]
        right = [False] * len(tolerance)
        if column is not None:
            right = within(truths[index], guesses[column], tolerance).tolist()
        named = reconstruction.labels
        said = None if named is None or place is None or place >= len(named) else int(named[place])
        rows.append(
            RowScore(
                index,
                place,
                tuple(right),
                None if blind is None else tuple(tuple(guess[index].tolist()) for guess in blind),
                None if said is None else said == int(labels[index]),
            )
        )
    kinds = tuple("categorical" if isinstance(c, Categorical) else "continuous" for c in modality.columns)
    return TableScores(tuple(rows), len(guesses) > 0, tuple(c.name for c in modality.columns), kinds)


def pooled(scores: Sequence[TableScores]) -> TableScores:
    """The scores of several tables of one schema as those of one; tables of which nothing was found count as wrong.

    Raises:
        BadConfig: no table, or of different schemas.
    """
    if not scores or any(other.names != scores[0].names for other in scores):
        raise BadConfig(f"{len(scores)} tables cannot be pooled", "give one or more of one schema")
    rows = tuple(row for one in scores for row in one.rows)
    return TableScores(rows, any(one.found for one in scores), scores[0].names, scores[0].kinds)


def tolerances(modality: Tabular, unrelated: Tensor | None) -> Tensor:
    """How far a value may be off and still count as right, by column, `(columns,)` float64; 0 for a categorical one.

    Args:
        unrelated: decoded rows `(G, columns)` whose standard deviations count; None for the schema's own. The truth
            has no say: a single row has no deviation, and a batch would set its own bar.
    """
    values = []
    for place, column in enumerate(modality.columns):
        if isinstance(column, Categorical):
            values.append(0.0)
            continue
        spread = 0.0 if unrelated is None or len(unrelated) < 2 else float(unrelated[:, place].std())
        values.append(TOLERANCE * (spread or column.std))
    return torch.tensor(values, dtype=torch.float64)


def blind_guesses(modality: Tabular, others: Tensor) -> tuple[Tensor, Tensor]:
    """Decoded rows `(columns,)` that somebody names without the update: mode and mean, and the value that is right for
    most of the unrelated rows.
    """
    tolerance, some = tolerances(modality, others), others[:CONSTANTS]
    usual, best = others.mean(0), others.mean(0)
    for place, column in enumerate(modality.columns):
        values = others[:, place]
        if isinstance(column, Categorical):
            usual[place] = best[place] = values.mode().values
        else:
            near = (values[None, :] - some[:, place, None]).abs() <= tolerance[place]
            best[place] = some[near.sum(1).argmax(), place]
    return usual, best


def within(truth: Tensor, guess: Tensor, tolerance: Tensor) -> Tensor:
    """Which cells of decoded rows `(..., columns)` are right."""
    return (truth - guess).abs() <= tolerance


def matched_rows(truths: Tensor, guesses: Tensor, tolerance: Tensor) -> list[int | None]:
    """For each true row the place of its guess, so that together the most cells are right."""
    from scipy.optimize import linear_sum_assignment  # imported late: it takes longer than all of fedseal's own modules

    matched: list[int | None] = [None] * len(truths)
    if len(guesses) == 0:
        return matched
    difference = (truths[:, None] - guesses[None]).abs()
    wrong = (difference > tolerance).double().mean(2)
    # among equals the nearer one, at a weight too small to outweigh a cell
    far = (difference / tolerance.clamp_min(1e-12)).clamp_max(10.0).mean(2) * 1e-4 / truths.shape[1]
    for row, column in zip(*[side.tolist() for side in linear_sum_assignment((wrong + far).numpy())], strict=True):
        matched[row] = column
    return matched


def _decoded(modality: Tabular, inputs: Tensor) -> Tensor:
    return modality.decode(inputs.detach().cpu().double())


def _guesses(modality: Tabular, reconstruction: Reconstruction) -> tuple[list[int], Tensor]:
    """The finite reconstructed rows, decoded, and their places in the reconstruction."""
    if reconstruction.inputs is None:
        return [], torch.empty(0, len(modality.columns), dtype=torch.float64)
    finite = torch.isfinite(reconstruction.inputs).all(1)
    return finite.nonzero().flatten().tolist(), _decoded(modality, reconstruction.inputs[finite])


def _baselines(rows: Sequence[RowScore], places: range) -> tuple[Baseline, ...]:
    """The share of these columns' cells that each blind guess has right."""
    guesses = []
    for number, name in enumerate(GUESSES):
        known = [row.blind[number][place] for row in rows if row.blind is not None for place in places]
        guesses.append(Baseline(name, sum(known) / len(known) if known else None))
    return tuple(guesses)
