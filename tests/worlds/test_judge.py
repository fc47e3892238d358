"""The judge itself: what lies is caught, by name, and what is true passes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from benchmarks import worlds
from benchmarks.worlds import tally
from benchmarks.worlds.generate import World
from benchmarks.worlds.judgement import CAP, Judgement, assigned, claimed, completed, judge, matched
from torch import Tensor

import fedseal as fs
from fedseal.types import Certificate, Observation, Outcome, ProgressCallback, Reconstruction

PLAIN = World(
    (
        "torch.manual_seed(0)",
        "model = nn.Sequential(nn.Linear(4, 16), nn.Sigmoid(), nn.Linear(16, 3)).double()",
        "batch = fs.Batch(torch.rand(2, 4).double(), torch.tensor([0, 1]))",
        "training = fs.LocalTraining.fedsgd()",
        "threat = fs.ThreatModel.honest_but_curious()",
        'modality = Tabular(columns=tuple(Continuous(f"c{n}", -8, 8) for n in range(4)))',
    ),
    frozenset({"data: table"}),
    0,
)


@dataclass(frozen=True)
class Answer:
    """An attack that returns what it was given, whatever it observes."""

    inputs: Tensor
    labels: Tensor | None
    name: str = "answer"

    def __call__(
        self, observation: Observation, *, generator: torch.Generator, progress: ProgressCallback | None = None
    ) -> Reconstruction:
        return Reconstruction(self.inputs, self.labels, Outcome("exact", self.name, 0.0, 0, 0.0))


def certain_of_all(observation: Observation, found: Reconstruction) -> Reconstruction:
    """A certificate that is always given: the mutant of the judge."""
    del observation
    if found.inputs is None:
        return found
    count = len(found.inputs)
    return replace(found, certificate=Certificate("replay", 0.0, 1e-3, (1.0,) * count, (True,) * count, "none"))


def believed(observation: Observation, found: Reconstruction) -> Reconstruction:
    """The attack's own word."""
    del observation
    return found


def truth() -> fs.Batch:
    return PLAIN.build().batch


def kinds(judgement: Judgement, attack: str = "answer") -> list[str]:
    return [fault.kind for fault in judgement.faults if fault.attack == attack]


@pytest.mark.parametrize("certifier", [certain_of_all, believed])
def test_a_certifier_that_says_yes_to_a_liar_is_caught(certifier: object) -> None:
    lie = Answer(torch.zeros(2, 4, dtype=torch.float64), torch.tensor([0, 1]))
    judgement = judge(PLAIN, attacks={"answer": lie}, certifier=certifier)  # type: ignore[arg-type]
    assert kinds(judgement).count("false certificate") == 2


def test_the_certifier_itself_does_not_believe_the_liar() -> None:
    lie = Answer(torch.zeros(2, 4, dtype=torch.float64), torch.tensor([0, 1]))
    assert "false certificate" not in kinds(judge(PLAIN, attacks={"answer": lie}))


def test_the_truth_is_no_fault_and_beats_what_reads_nothing() -> None:
    batch = truth()
    right = Answer(batch.inputs.flip(0), batch.labels.flip(0))
    blind = "inverting_gradients:steps=1"
    judgement = judge(PLAIN, attacks={"answer": right}, planner=blind, certifier=certain_of_all)
    assert kinds(judgement) == ["beaten"]
    (read,) = [read for read in judgement.reads if read.attack == "answer"]
    assert read.certain == (True, True)
    assert read.psnr == CAP


def test_an_example_claimed_twice_is_false_once() -> None:
    batch = truth()
    twice = Answer(batch.inputs[[0, 0]], batch.labels)
    assert kinds(judge(PLAIN, attacks={"answer": twice}, certifier=certain_of_all)).count("false certificate") == 1


def test_the_right_input_under_the_wrong_label() -> None:
    batch = truth()
    swapped = Answer(batch.inputs, batch.labels.flip(0))
    assert kinds(judge(PLAIN, attacks={"answer": swapped}, certifier=certain_of_all)) == ["wrong label"] * 2


def test_a_crash_and_a_result_that_is_not_finite() -> None:
    nowhere = Answer(torch.full((2, 4), torch.nan, dtype=torch.float64), None)
    assert "not finite" in kinds(judge(PLAIN, attacks={"answer": nowhere}, certifier=believed))

    def crash(observation: Observation, found: Reconstruction) -> Reconstruction:
        raise ValueError("of torch")

    faults = judge(PLAIN, attacks={"answer": nowhere}, certifier=crash).of("crash")
    assert {fault.attack for fault in faults} == {"auto", "answer"}


def test_silence_is_counted() -> None:
    batch = truth()

    def nobody(observation: Observation, found: Reconstruction) -> Reconstruction:
        return replace(found, certificate=None, outcome=replace(found.outcome, status="budget"))

    right = Answer(batch.inputs, batch.labels)
    judgement = judge(PLAIN, attacks={"answer": right}, certifier=nobody)
    assert judgement.determined == (True, True)
    assert kinds(judgement) == ["silent"] * 2
    label = "of the determined examples that all attacks read to 40 dB, as a server: called certain"
    assert str(tally.figures([(0, judgement)])[label]).startswith("0 of")


def test_labels_that_are_certified_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = fs.attack.labels.base.Labels(torch.tensor([0, 0]), torch.tensor([2, 0, 0]), certified=True)
    monkeypatch.setattr(fs.attack.labels, "best", lambda observation, generator: wrong)
    assert kinds(judge(PLAIN), "labels") == ["false labels"]


def test_certain_guesses_are_matched_first() -> None:
    """Least squares alone would give the certain guess of the first truth to the second."""
    truths = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    guesses = torch.tensor([[0.0, 0.0], [-1.0, 0.0]])
    pairs, distances = matched(truths, guesses, torch.tensor([True, False]))
    assert pairs == {0: 0}
    assert len(assigned(distances)) == 2


def test_a_status_without_a_certificate_claims_all() -> None:
    outcome = Outcome("exact", "linear", 0.0, 0, 0.0)
    assert claimed(Reconstruction(torch.zeros(2, 3), None, outcome)).tolist() == [True, True]
    assert claimed(Reconstruction(torch.zeros(2, 3), None, replace(outcome, status="budget"))).tolist() == [False] * 2


def test_a_failing_world_is_printed_as_a_program_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = tally.script(PLAIN, "auto:steps=20", "honest_but_curious")
    exec(compile(text, "script", "exec"), {"__name__": "script"})
    assert "rms of each result" in capsys.readouterr().out


def test_a_crash_of_the_judge_is_counted_and_loses_no_other_world(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("does not converge")

    monkeypatch.setattr(worlds, "judge", broken)
    judged = [worlds.one(seed) for seed in range(2)]
    found = tally.figures(judged)
    assert str(found["worlds in which an attack crashed"]).startswith("2 of 2")
    assert "does not converge" in worlds.grave(judged)


def test_one_guess_is_not_taken_for_two_equal_truths() -> None:
    truth = torch.tensor([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]]).double()
    guesses = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.9, 0.1]]).double()
    pairs, distances = matched(truth, guesses, torch.zeros(3, dtype=torch.bool))
    every = completed(pairs, distances)
    assert sorted(every.values()) == [0, 1, 2]
    assert sorted(float(distances[t, g]) <= 1e-2 for t, g in every.items()) == [False, True, True]


def test_of_equal_truths_the_one_with_the_guess_s_label_is_taken() -> None:
    truth = torch.full((3, 2), 0.5).double()
    guesses = torch.tensor([[0.5, 0.5], [0.9, 0.9]]).double()
    alike = torch.tensor([[False, True], [False, True], [True, False]])
    pairs, _ = matched(truth, guesses, torch.tensor([True, False]), alike)
    assert pairs == {2: 0}
