from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from audit.fakes import Divide, Guess, small_case
from fedseal import audit
from fedseal.audit import compare, summarize
from fedseal.audit.grid import public_steps
from fedseal.audit.record import Step
from fedseal.audit.summary import axes
from fedseal.defense import Hooks, parse
from fedseal.errors import BadConfig
from fedseal.grammar import expanded
from fedseal.mechanism import Mechanism
from fedseal.setup import load_config
from fedseal.threat import ThreatModel
from fedseal.types import LocalTraining

PER_EXAMPLE = Hooks("halved", example_grads=lambda grads, _: {name: grad / 2 for name, grad in grads.items()})


def test_axes_are_multiplied_out_smaller_updates_first(tmp_path: Path) -> None:
    record = audit.run(
        small_case(4), attacks=[Guess(), Divide()], out=tmp_path, samples=1, batch_size=[1, 2], epochs=[0, 3], lr=0.1
    )
    order = [(cell.key.attack, cell.key.batch_size, cell.key.epochs) for cell in record.cells]
    assert order == [(attack, size, course) for attack in ("guess", "divide") for size in (1, 2) for course in (0, 3)]
    assert record.header.config.batch_sizes == (1, 2)
    assert record.header.config.epochs == (0, 3)
    assert audit.load(tmp_path) == record
    groups = summarize(record)
    assert [(g.attack, g.batch_size, g.epochs, g.cells) for g in groups] == [(*place, 1) for place in order]
    assert all(sum(group.holds(cell) for group in groups) == 1 for cell in record.cells)


def test_the_record_says_what_is_public_of_each_defense_a_users_own_included(tmp_path: Path) -> None:
    mine = Hooks("mine", (Mechanism("prune", {"fraction": 0.5}), Mechanism("gaussian", {"sigma": 0.1})))
    record = audit.run(
        small_case(1), attacks=[Guess()], defenses=["none", mine, "soteria:0.5", Hooks("silent")], out=tmp_path
    )
    assert record.header.config.public == {
        "none": (),
        "mine": (Step(kind="prune", figures={"fraction": 0.5}), Step(kind="gaussian", figures={"sigma": 0.1})),
        "soteria:0.5": (Step(kind="masked_layer", where=("1.weight",)),),
        "silent": (),
    }
    assert audit.load(tmp_path) == record
    louder = Hooks("mine", (Mechanism("gaussian", {"sigma": 0.2}),))
    with pytest.raises(BadConfig, match="public was"):
        audit.run(small_case(1), attacks=[Guess()], defenses=["none", louder], out=tmp_path)


def test_a_defense_that_does_not_fit_the_model_is_described_as_on_any() -> None:
    shield = parse("soteria:0.5")
    assert public_steps(shield, nn.Sequential(nn.Conv2d(1, 3, 12), nn.Flatten())) == (Step(kind="masked_layer"),)


def test_a_run_that_began_before_public_steps_were_recorded_goes_on(tmp_path: Path) -> None:
    first = audit.run(small_case(1), attacks=[Guess()], out=tmp_path)
    content = json.loads((tmp_path / "record.json").read_text())
    del content["config"]["public"]
    (tmp_path / "record.json").write_text(json.dumps(content))
    again = audit.run(small_case(1), attacks=[Guess()], out=tmp_path)
    assert again.header.config.public is None
    assert again.cells == first.cells


def test_one_value_of_an_axis_tells_no_groups_apart(tmp_path: Path) -> None:
    one = audit.run(small_case(4), attacks=[Guess()], out=tmp_path / "1", samples=1, batch_size=1)
    two = audit.run(small_case(4), attacks=[Guess()], out=tmp_path / "2", samples=1, batch_size=2)
    both = audit.run(small_case(4), attacks=[Guess()], out=tmp_path / "12", samples=1, batch_size=(1, 2))
    assert (sorted(axes(one)), sorted(axes(both))) == ([], ["batch_size"])
    assert {change.verdict for change in compare(one, two)} <= {"same", "worse", "better"}
    assert {change.setting for change in compare(one, both)} == {"none, batches of 1", "none, batches of 2"}
    assert {change.verdict for change in compare(one, both) if change.batch_size == 1} == {"same"}
    assert {change.verdict for change in compare(one, both) if change.batch_size == 2} == {"appeared"}


def test_as_many_batches_of_each_size_as_of_the_largest(tmp_path: Path) -> None:
    record = audit.run(small_case(6), attacks=[Guess()], out=tmp_path, batch_size=(1, 3))
    assert [(key.batch_size, key.first) for key in record.header.keys] == [(1, 0), (1, 1), (3, 0), (3, 3)]


def test_local_epochs_take_the_place_of_the_cases_own() -> None:
    own = small_case(2, LocalTraining.fedavg(lr=0.1, epochs=2, momentum=0.5, mode="eval"))
    assert own.over(None) is own
    assert own.over(0).training == LocalTraining.fedsgd(mode="eval")
    assert own.over(4).training == replace(own.training, epochs=4)
    assert own.over(4, 0.2).training.lr == 0.2
    observed, _ = (
        small_case(1)
        .over(3, 0.1)
        .observe(first=0, batch_size=1, defense=Hooks("none"), threat=ThreatModel.honest_but_curious(), seed=0)
    )
    assert observed.update.kind == "difference"
    with pytest.raises(BadConfig, match="no learning rate"):
        small_case(1).over(1)
    with pytest.raises(BadConfig, match="-1 local epochs"):
        own.over(-1)


def test_a_defense_without_a_place_in_some_training_is_a_finding_and_in_all_a_mistake(tmp_path: Path) -> None:
    record = audit.run(
        small_case(1), attacks=[Divide()], defenses=[PER_EXAMPLE], out=tmp_path / "a", epochs=[0, 2], lr=0.1
    )
    assert [cell.status for cell in record.cells] == ["converged", "refused"]
    assert "single examples' gradients" in record.cells[1].note
    with pytest.raises(BadConfig, match=r"'halved' changes single examples' gradients.*add 0 to the epochs"):
        audit.run(small_case(1), attacks=[Divide()], defenses=[PER_EXAMPLE], out=tmp_path / "b", epochs=[2], lr=0.1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"batch_size": (1, 5)}, "5 examples each from a case of 4"),
        ({"batch_size": (0, 1)}, "0 examples each"),
        ({"batch_size": ()}, "no batch size"),
        ({"batch_size": (2, 2)}, "'2' is there twice"),
        ({"epochs": (-1,), "lr": 0.1}, "-1 local epochs"),
        ({"epochs": (0, 1)}, "no learning rate"),
        ({"epochs": (1, 1), "lr": 0.1}, "'1' is there twice"),
        ({"epochs": ()}, "no number of local epochs"),
        ({"lr": 0.1}, "no local epochs"),
        ({"epochs": 0, "lr": 0.1}, "no local epochs"),
        ({"epochs": 1, "lr": float("nan")}, "learning rate is nan"),
        ({"defenses": ["prune:[]"]}, "cannot be read"),
        ({"defenses": ["prune:[0.2,0.2]"]}, "'prune:0.2' is there twice"),
    ],
)
def test_an_axis_that_means_nothing_is_refused(tmp_path: Path, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(BadConfig, match=said):
        audit.run(small_case(4), attacks=[Guess()], out=tmp_path, **arguments)  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["prune:[0.2", "prune:0.2]", "prune:[[0.2]]", "prune:[0.2,]", "prune:[ ]"])
def test_brackets_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(BadConfig, match=r"write them as 'prune:\[0\.2,0\.5\]'"):
        expanded([text])


def test_every_bracket_is_multiplied_out() -> None:
    assert expanded(["clip:[1,2]+gaussian:[0.1, 1e-4],seed=3"]) == (
        "clip:1+gaussian:0.1,seed=3",
        "clip:1+gaussian:1e-4,seed=3",
        "clip:2+gaussian:0.1,seed=3",
        "clip:2+gaussian:1e-4,seed=3",
    )


def test_a_file_names_several_values_of_an_axis(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(
        "model: zoo:mlp\ndata: fashion_mnist\nbatch_size: [1, 2]\nepochs: [0, 5]\nlr: 0.01\n"
        "defenses: [none, prune: [0.2, 0.5], 'gaussian:[0.1,1e-4]', {clip: 1}]\n"
    )
    setup = load_config(path)
    assert (setup.batch_size, setup.epochs, setup.lr) == ((1, 2), (0, 5), 0.01)
    assert setup.defenses == ("none", "prune:0.2", "prune:0.5", "gaussian:0.1", "gaussian:1e-4", "clip:1")
    path.write_text("defenses: {prune: [0.2, 0.5]}\nepochs: 3\nlr: 0.1\n")
    setup = load_config(path)
    assert (setup.defenses, setup.epochs, setup.batch_size) == (("prune:0.2", "prune:0.5"), (3,), (1,))
    path.write_text("defenses: [3]\n")
    with pytest.raises(BadConfig, match="'defenses' is 3"):
        load_config(path)
