"""Labels reach a search as a value: what each source hands on, and when it is asked."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attack.cases import observed, pictures, seeded
from fedseal import Batch, Image, LocalTraining, Observation, ThreatModel, defense, local_update, zoo
from fedseal.attack import bayes, parse
from fedseal.attack.evidence.evidence import Evidence
from fedseal.attack.labels import METHODS, Inferred, Labels, way_to_labels
from fedseal.attack.labels.base import from_counts
from fedseal.attack.labels.combination import Best
from fedseal.attack.labels.sign import Sign
from fedseal.attack.labels.ways import label_ways
from fedseal.attack.search.label_source import JOINT, Given, Joint, LabelSource, Oracle, UnlessMixed, given_or
from fedseal.attack.search.matching import GradientMatching, Search
from fedseal.errors import UnknownName, UnknownToAdversary

LENET = zoo.lenet(size=8, width=4, num_classes=5)
BATCH = pictures(3, dtype=torch.float32)
SEEN = observed(LENET, BATCH, threat=ThreatModel.oracle())


@dataclass(frozen=True)
class Guess:
    """A method of a user's own; it draws, so that the generator tells when it was asked."""

    counts: tuple[int, ...] = (1, 0, 2, 0, 0)
    name: str = "guess"

    def __call__(self, observation: Observation, *, generator: torch.Generator) -> Labels:
        torch.rand(1, generator=generator)
        return from_counts(torch.tensor(self.counts))


def _labels(source: LabelSource, observation: Observation = SEEN) -> Tensor | None:
    return Search(GradientMatching("m", labels=source), observation, seeded()).labels


def _numbers(count: int) -> tuple[Observation, Tensor]:
    """Under the squared error, which knows no classes."""
    batch = Batch(BATCH.inputs[:count], torch.tensor([[0.5, -1.0, 2.0, 0.0, 1.0], [1.0, 0.25, -2.0, 0.5, 0.0]])[:count])
    training = replace(LocalTraining.fedsgd(), loss=F.mse_loss)
    update = local_update(LENET, batch, training=training)
    seen = ThreatModel.oracle().observe(LENET, update, modality=Image(shape=(3, 8, 8)), labels=batch.labels)
    return seen, batch.labels


def _mixed(specification: str = "mixup:1") -> Observation:
    guard = defense.parse(specification)
    update = local_update(LENET, BATCH, training=LocalTraining.fedsgd(), defense=guard, generator=seeded())
    return ThreatModel.honest_but_curious().observe(LENET, update, modality=Image(shape=(3, 8, 8)), defense=guard)


def test_every_name_is_a_value_and_equal_names_are_equal_values() -> None:
    assert label_ways() == ["joint", "oracle", *METHODS]
    for name in label_ways():
        assert way_to_labels(name) == way_to_labels(name)
        assert hash(way_to_labels(name)) == hash(way_to_labels(name))
    assert (way_to_labels("joint"), way_to_labels("oracle")) == (Joint(), Oracle())
    assert way_to_labels("best") == Inferred(Best())


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="way to labels") as told:
        way_to_labels("oracel")
    assert "oracle" in str(told.value)


def test_soft_targets_are_searched_and_others_are_handed_on() -> None:
    assert _labels(Joint()) is None
    given = torch.tensor([4, 0, 2])
    handed: list[tuple[LabelSource, Tensor]] = [(Given(given), given), (Oracle(), BATCH.labels)]
    for source, labels in handed:
        found = _labels(source)
        assert found is not None
        assert torch.equal(found, labels)
    assert given_or(None) == JOINT
    assert given_or(None, Oracle()) == Oracle()
    assert isinstance(given_or(given, Oracle()), Given)


def test_an_oracle_is_asked_last_so_that_a_search_says_first_what_else_it_lacks() -> None:
    read = Oracle().bind(Evidence.of(observed(LENET, BATCH)), "m", 3)
    assert read is not None
    with pytest.raises(UnknownToAdversary, match="m takes the true labels"):
        read(seeded())


def test_a_method_of_ones_own_is_asked_after_the_start_was_drawn() -> None:
    draws = seeded()
    search = Search(GradientMatching("m", labels=Inferred(Guess())), SEEN, draws)
    assert search.labels is not None
    assert search.labels.tolist() == [0, 2, 2]
    plain = Search(GradientMatching("m", labels=Oracle()), SEEN, seeded())
    assert torch.equal(search.start, plain.start)
    again = seeded()
    torch.randn(BATCH.inputs.shape, generator=again)
    torch.rand(1, generator=again)
    assert torch.equal(draws.get_state(), again.get_state())


def test_what_is_asked_beforehand_is_asked_once_and_the_rest_stays_itself() -> None:
    draws = seeded()
    settled = Inferred(Guess()).beforehand(SEEN, draws)
    assert isinstance(settled, Given)
    assert settled.labels.tolist() == [0, 2, 2]
    for source in (Joint(), Oracle(), settled):
        assert source.beforehand(SEEN, draws) is source


def test_a_method_means_nothing_where_targets_are_no_classes() -> None:
    one, truth = _numbers(1)
    told = _labels(Inferred(Guess()), one)
    assert told is not None
    torch.testing.assert_close(told, truth, rtol=1e-3, atol=1e-3)
    two, truth = _numbers(2)
    assert _labels(Inferred(Guess()), two) is None
    handed = _labels(Oracle(), two)
    assert handed is not None
    assert torch.equal(handed, truth)


def test_labels_of_mixed_examples_are_searched_along() -> None:
    source, mixed = UnlessMixed(Inferred(Guess())), _mixed()
    assert _labels(source, mixed) is None
    assert source.beforehand(mixed, seeded()) == JOINT
    assert isinstance(source.beforehand(SEEN, seeded()), Given)
    for observation in (SEEN, _mixed("gaussian:0.001")):
        found = _labels(source, observation)
        assert found is not None
        assert found.tolist() == [0, 2, 2]


def test_only_the_default_of_the_bayesian_search_gives_way_to_mixing() -> None:
    assert bayes().labels == bayes(labels="best").labels == UnlessMixed(Inferred(Best()))
    assert bayes(labels="sign").labels == Inferred(Sign())


def test_what_was_asked_before_of_an_observation_changes_no_labels() -> None:
    """They are found once for all who hold it: by the first one's draws, all others' would hang on that one."""
    search = parse("gradinversion:steps=2,seeds=2")  # which draws on after its labels were asked

    def after(*seeds: int) -> tuple[Tensor | None, Tensor | None]:
        observation = observed(LENET, BATCH)
        for seed in seeds:
            found = search(observation, generator=seeded(seed))
        return found.inputs, found.labels

    for one, other in zip(after(0), after(1, 2, 0), strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
