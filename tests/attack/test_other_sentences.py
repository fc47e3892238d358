"""Sentences that a model does not tell apart are not certain, whatever part of them it takes for the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedseal import Batch, LocalTraining, Outcome, Reconstruction, Text, ThreatModel, local_update, zoo
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.proof.certificate import certify
from fedseal.attack.proof.other_sentences import swaps
from fedseal.types import Candidate

TEXT = Text(zoo.bpe(tokens=300), length=12)
WIDTH = 16


class Reads(nn.Module):
    """A classifier of sentences that reads only what its name says."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.table = nn.Embedding(TEXT.size, WIDTH)
        self.places = nn.Parameter(torch.randn(TEXT.length, WIDTH))
        self.mix, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)
        folded = torch.arange(TEXT.size)
        folded[200:250] = torch.arange(100, 150)
        self.register_buffer("folded", folded)
        self.folded: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        places: Tensor = self.places
        if self.what == "the beginning":
            ids, places = ids[:, :8], places[:8]
        elif self.what == "the end":
            ids, places = ids[:, -8:], places[:8]
        elif self.what == "every second token":
            ids, places = ids[:, ::2], places[:6]
        elif self.what == "ids in parts":
            ids = ids % 100
        elif self.what == "folded case":
            ids = self.folded[ids]
        elif self.what == "two halves":
            places = torch.cat([places[:1].expand(6, -1), places[1:2].expand(6, -1)])
        hidden = torch.tanh(self.mix(self.table(ids) + places))
        scores: Tensor = self.head(hidden.amax(1) if self.what == "the largest" else torch.tanh(hidden.sum(1)))
        return scores


def _sentence() -> Tensor:
    ids = torch.randint(10, 199, (1, 12), generator=torch.Generator().manual_seed(0))
    ids[0, 3], ids[0, 8] = 210, 230
    return ids


def _changed(places: tuple[int, ...], tokens: tuple[int, ...]) -> Tensor:
    ids = _sentence()
    ids[0, list(places)] = torch.tensor(tokens)
    return ids


OTHERS = {
    "the beginning": _changed((9, 10), (40, 41)),
    "the end": _changed((2,), (40,)),
    "every second token": _changed((3, 9), (40, 41)),
    "ids in parts": _changed((3,), (110,)),
    "folded case": _changed((3, 8), (110, 130)),
    "two halves": _changed((1, 4), (int(_sentence()[0, 4]), int(_sentence()[0, 1]))),
}


def _model(what: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Reads(what)


@pytest.mark.parametrize("what", OTHERS)
def test_a_sentence_of_which_a_part_is_not_told_apart_is_not_certain(what: str) -> None:
    model, ids, labels = _model(what), _sentence(), torch.tensor([1])
    update = local_update(model, Batch(ids, labels), training=LocalTraining.fedsgd())
    seen = ThreatModel.honest_but_curious().observe(model, update, modality=TEXT)
    for claimed in (ids, OTHERS[what]):
        found = certify(seen, Reconstruction(claimed, labels, Outcome("exact", "by hand", 0.0, 0, 0.0)))
        assert found.certificate is not None
        assert found.certificate.residual <= found.certificate.tolerance
        assert found.certain.tolist() == [False]


def test_a_sentence_that_is_read_whole_keeps_its_certificate_beside_one_that_is_not() -> None:
    """Each is tried alone: what one of them may hold instead is not hidden by what the other moves."""
    model = _model("the largest")
    ids = torch.cat([_sentence(), torch.full((1, 12), 57)])
    labels = torch.tensor([1, 0])
    update = local_update(model, Batch(ids, labels), training=LocalTraining.fedsgd())
    seen = ThreatModel.honest_but_curious().observe(model, update, modality=TEXT)
    moved = swaps(Evidence.of(seen), Candidate(ids, labels)).values
    assert moved[0] < 1e-6
    whole = _model("all")
    update = local_update(whole, Batch(ids, labels), training=LocalTraining.fedsgd())
    seen = ThreatModel.honest_but_curious().observe(whole, update, modality=TEXT)
    assert min(swaps(Evidence.of(seen), Candidate(ids, labels)).values) > 1e-4
