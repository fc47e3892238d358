"""The judge of a table's rows: how many of their cells are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from fedseal.errors import BadConfig
from fedseal.metric import tabular
from fedseal.metric.scores import Baseline, Identification, Score
from fedseal.modality.tabular import Tabular

NAMES = ("columns", "row")


class RowJudge:
    """Compares decoded rows `(columns,)`, cell by cell, within the tolerance that `metric.tabular` sets.

    Args:
        modality: the table's schema.
        gallery: unrelated encoded rows `(G, width)`; None leaves blind guesses without a value.

    Raises:
        BadConfig: the gallery is not of the schema's width, or empty.
    """

    def __init__(self, modality: Tabular, gallery: Tensor | None) -> None:
        if gallery is not None and (tuple(gallery.shape[1:]) != tuple(modality.shape) or len(gallery) == 0):
            raise BadConfig(
                f"the gallery has shape {tuple(gallery.shape)}", f"give encoded rows (G, {modality.shape[0]})"
            )
        self._modality, self.shape = modality, tuple(modality.shape)
        self._others = None if gallery is None else modality.decode(gallery.detach().cpu().double())

    def read(self, inputs: Tensor) -> tuple[list[int], Sequence[Tensor]]:
        """The finite rows, decoded, and their places."""
        finite = torch.isfinite(inputs).all(1)
        rows = self._modality.decode(inputs[finite].detach().cpu().double())
        return finite.nonzero().flatten().tolist(), list(rows)

    def match(self, truths: Sequence[Tensor], guesses: Sequence[Tensor]) -> tuple[int | None, ...]:
        """Pairs that have most cells right."""
        found = torch.stack(list(guesses)) if guesses else torch.empty(0, len(self._modality.columns))
        return tuple(tabular.matched_rows(torch.stack(list(truths)), found, self._tolerance))

    def blind(self, truth: Tensor) -> Mapping[str, tuple[Baseline, ...]]:
        """What guesses without the update have right: column modes and means, and the best constants."""
        if self._others is None:
            return {name: tuple(Baseline(guess, None) for guess in tabular.GUESSES) for name in NAMES}
        pairs = zip(tabular.GUESSES, tabular.blind_guesses(self._modality, self._others), strict=True)
        shares = {guess: self._shares(truth, row) for guess, row in pairs}
        return {name: tuple(Baseline(guess, found[name]) for guess, found in shares.items()) for name in NAMES}

    def scores(
        self, truth: Tensor, guess: Tensor | None, blind: Mapping[str, tuple[Baseline, ...]]
    ) -> tuple[Score, ...]:
        """The share of columns that agree first, then 1 for a row of which all do."""
        values: Mapping[str, float | None] = dict.fromkeys(NAMES) if guess is None else self._shares(truth, guess)
        return tuple(Score(name, "", values[name], True, blind[name]) for name in NAMES)

    def identify(self, truth: Tensor, guess: Tensor) -> Identification | None:
        """Rows are judged by their cells: no gallery is looked at."""
        del truth, guess
        return None

    def agrees(self, truth: Tensor, guess: Tensor) -> dict[str, bool]:
        """By the columns' names whether two decoded rows agree."""
        right: list[bool] = tabular.within(truth, guess, self._tolerance).tolist()
        return {column.name: same for column, same in zip(self._modality.columns, right, strict=True)}

    def _shares(self, truth: Tensor, guess: Tensor) -> dict[str, float | None]:
        right = tabular.within(truth, guess, self._tolerance)
        return {"columns": float(right.double().mean()), "row": float(right.all())}

    @cached_property
    def _tolerance(self) -> Tensor:
        return tabular.tolerances(self._modality, self._others)
