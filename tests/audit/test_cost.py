from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fedseal as fs
from audit.fakes import small_case
from fedseal import defense as defenses
from fedseal import federation
from fedseal.audit.case import Case, stream
from fedseal.audit.cost import Cost, CostPlan, accuracy, costs_of, measure, measure_case, write_cost
from fedseal.audit.encoding import UNWRITTEN, encoded_bytes
from fedseal.client import local_update
from fedseal.defense import Hooks
from fedseal.errors import BadConfig, StorageFailure, UnfitUpdate
from fedseal.mechanism import KINDS, Mechanism
from fedseal.types import Batch, LocalTraining, LossFunction, Update

SGD = LocalTraining.fedsgd()


def blobs(count: int = 60, seed: int = 0) -> Batch:
    """Three well separated classes in the plane."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    centers = torch.tensor([[3.0, 0.0], [-3.0, 3.0], [-3.0, -3.0]])
    return Batch(centers[labels] + torch.randn(count, 2, generator=generator), labels)


def net(seed: int) -> nn.Module:
    return fs.zoo.mlp(inputs=2, widths=(8,), num_classes=3, activation="tanh", seed=seed)


class Fixed(nn.Module):
    """Answers the same whatever it is shown."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, inputs: Tensor) -> Tensor:
        return self.outputs[: len(inputs)]


PLAN = CostPlan(rounds=8, clients=2, lr=1.0, seeds=(0, 1, 2))


@pytest.fixture(scope="module")
def costs() -> dict[str, Cost]:
    names = ["gaussian:0.0001", "gaussian:30", "prune:0.5", "float16"]
    found = measure(net, blobs(), blobs(90, 1), defenses=names, training=SGD, plan=PLAN)
    return {cost.defense: cost for cost in found}


def test_the_undefended_model_learns_and_comes_first(costs: dict[str, Cost]) -> None:
    none = costs["none"]
    assert next(iter(costs)) == "none"
    assert none.accuracy > 0.9
    assert none.learned
    assert (none.points_lost, none.points_lost_interval) == (0.0, (0.0, 0.0))
    assert none.chance == pytest.approx(1 / 3)
    assert (none.examples, none.tested, none.seeds, none.times) == (60, 90, (0, 1, 2), 1.0)


def test_weak_noise_costs_nothing_and_strong_noise_all(costs: dict[str, Cost]) -> None:
    assert abs(costs["gaussian:0.0001"].points_lost) < 1
    ruined = costs["gaussian:30"]
    assert ruined.points_lost > 25
    assert ruined.points_lost == pytest.approx(100 * (ruined.accuracy_without - ruined.accuracy))
    assert costs["float16"].kept is not None
    assert ruined.kept is not None
    assert ruined.kept < 0.7 < costs["float16"].kept


def test_bytes_are_those_of_the_encoding(costs: dict[str, Cost]) -> None:
    entries = sum(p.numel() for p in net(0).parameters())
    assert costs["none"].bytes_per_update == 4 * entries
    assert costs["gaussian:30"].bytes_per_update == 4 * entries
    assert costs["float16"].bytes_per_update == 2 * entries
    assert 2 * entries < costs["prune:0.5"].bytes_per_update < 2.6 * entries


def test_the_interval_is_students_of_paired_differences(costs: dict[str, Cost]) -> None:
    noisy, none = costs["gaussian:30"], costs["none"]
    lost = [100 * (a - b) for a, b in zip(none.accuracies, noisy.accuracies, strict=True)]
    half = 4.302653 * np.std(lost, ddof=1) / math.sqrt(3)
    assert noisy.points_lost_interval is not None
    assert noisy.points_lost_interval == pytest.approx(
        (max(-100, np.mean(lost) - half), min(100, np.mean(lost) + half)), abs=1e-4
    )


def test_one_seed_has_no_interval_and_the_same_call_the_same_answer() -> None:
    plan = replace(PLAN, seeds=(3,), rounds=2)
    first, again = (measure(net, blobs(), defenses=["gaussian:1"], training=SGD, plan=plan)[1] for _ in range(2))
    assert first.accuracy_interval is None
    assert first.points_lost_interval is None
    assert (first.tested, first.examples) == (12, 48)
    assert first.accuracies == again.accuracies
    assert first.setting == again.setting


def test_every_seed_has_its_draws_and_its_split_and_the_server_its_usual_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, float, int | None]] = []
    held: list[float] = []

    def watched(start: nn.Module, clients: Any, *, generator: torch.Generator, lr: float, **facts: Any) -> Any:
        seen.append((generator.initial_seed(), lr, facts["batch_size"]))
        held.append(sum(float(client.inputs.double().sum()) for client in clients))
        return train(start, clients, generator=generator, lr=lr, **facts)

    train = federation.train
    monkeypatch.setattr(federation, "train", watched)
    plan = replace(PLAN, rounds=1, seeds=(0, 1), lr=None, batch_size=4)
    for training in (SGD, LocalTraining.fedavg(lr=0.1)):
        measure(net, blobs(), defenses=["sign"], training=training, plan=plan)
    draws = [stream("cost", seed).initial_seed() for seed in (0, 1)]
    assert seen == [(draw, rate, 4) for rate in (0.1, 1.0) for _ in ("none", "sign") for draw in draws]
    assert held[:2] == held[2:4]
    assert held[0] != held[1]


def test_accuracy_is_that_of_evaluation_and_leaves_the_model_in_its_mode() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2, affine=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(2))  # type: ignore[operator]
    batch = Batch(torch.tensor([[9.0, 0.0], [8.0, 0.5]]), torch.tensor([0, 0]))  # normalized by itself: one of each
    assert accuracy(model.train(), batch) == 1.0
    assert model.training
    assert accuracy(model.eval(), batch) == 1.0
    assert not model.training


def test_chance_is_the_share_of_the_commonest_label_of_the_test_examples() -> None:
    test = Batch(torch.zeros(8, 2), torch.tensor([0, 1, 1, 1, 1, 1, 2, 2]))
    (none,) = measure(net, blobs(), test, defenses=[], training=SGD, plan=replace(PLAN, rounds=1, seeds=(0,)))
    assert none.chance == 5 / 8


def test_all_are_compared_with_the_undefended_model_and_its_setting_is_named_by_all_that_matters() -> None:
    plan = replace(PLAN, rounds=2, seeds=(0,))
    none, ruined, last = measure(net, blobs(), defenses=["gaussian:1000", "prune:0.1"], training=SGD, plan=plan)
    assert none.accuracy == ruined.accuracy_without == last.accuracy_without > ruined.accuracy
    other = Batch(blobs().inputs, blobs().labels.flip(0))
    moved = Batch(blobs().inputs + 1, blobs().labels)
    variations = [
        (net, blobs(), SGD, plan),
        (lambda seed: net(seed + 1), blobs(), SGD, plan),
        (net, other, SGD, plan),
        (net, moved, SGD, plan),
        (net, blobs(), LocalTraining.fedsgd(mode="eval"), plan),
        (net, blobs(), SGD, replace(plan, rounds=1)),
    ]
    found = {measure(m, b, defenses=[], training=t, plan=p)[0].setting for m, b, t, p in variations}
    assert len(found) == len(variations)
    assert none.setting in found


def test_the_time_of_an_update_is_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(start: nn.Module, clients: object, *, meter: Callable[[Update, float], None], **facts: object) -> object:
        for took in (1.0, 2.0, 9.0):
            meter(Update("gradient", {"w": torch.zeros(3)}), took)
        return iter([start])

    monkeypatch.setattr(federation, "train", timed)
    (none,) = measure(net, blobs(), defenses=[], training=SGD, plan=replace(PLAN, seeds=(0,)))
    assert (none.seconds_per_update, none.bytes_per_update) == (2.0, 12.0)


def test_a_training_that_diverges_is_right_about_nothing() -> None:
    def growing(update: Update, generator: torch.Generator) -> Update:
        return replace(update, tensors={name: 1e30 * (tensor + 1) for name, tensor in update.tensors.items()})

    plan = replace(PLAN, seeds=(0,), lr=1e10)
    none, wild = measure(net, blobs(), defenses=[Hooks("growing", update=growing)], training=SGD, plan=replace(plan))
    assert (wild.accuracy, wild.diverged) == (0.0, (0,))
    assert none.diverged == ()


def test_an_update_that_outgrows_its_format_has_diverged_and_one_that_never_fit_is_refused() -> None:
    def swelling(update: Update, generator: torch.Generator) -> Update:
        sizes.append(1)
        scaled = {name: 10.0 ** len(sizes) * (tensor + 1) for name, tensor in update.tensors.items()}
        return defenses.float16().on_update(replace(update, tensors=scaled), generator)

    sizes: list[int] = []
    plan = replace(PLAN, seeds=(0,))
    _, swollen = measure(net, blobs(), defenses=[Hooks("swelling", update=swelling)], training=SGD, plan=plan)
    assert swollen.diverged == (0,)
    sizes = [1] * 9
    with pytest.raises(UnfitUpdate, match="float16"):
        measure(net, blobs(), defenses=[Hooks("swelling", update=swelling)], training=SGD, plan=plan)


def test_a_model_that_learns_nothing_has_nothing_to_lose() -> None:
    batch = Batch(torch.zeros(40, 2), torch.arange(40) % 3)
    none, noisy = measure(net, batch, defenses=["gaussian:1"], training=SGD, plan=replace(PLAN, rounds=2))
    assert not none.learned
    assert noisy.kept is None


def test_accuracy_counts_positions_with_labels_and_soft_labels() -> None:
    one_hot = torch.eye(3)[torch.tensor([0, 1, 2, 2])]
    assert accuracy(Fixed(one_hot), Batch(torch.zeros(4, 1), torch.tensor([0, 1, 2, 0]))) == 0.75
    assert accuracy(Fixed(one_hot), Batch(torch.zeros(4, 1), one_hot)) == 1.0
    positions = torch.eye(3)[torch.tensor([[0, 1], [2, 2]])].transpose(1, 2)
    assert accuracy(Fixed(positions), Batch(torch.zeros(2, 2), torch.tensor([[0, -100], [1, 2]]))) == pytest.approx(
        2 / 3
    )
    broken = torch.full((2, 3), float("nan"))
    assert accuracy(Fixed(broken), Batch(torch.zeros(2, 1), torch.tensor([0, 0]))) == 0.0
    with pytest.raises(BadConfig):
        accuracy(Fixed(torch.zeros(2)), Batch(torch.zeros(2, 1), torch.tensor([0, 0])))


@pytest.mark.parametrize(
    "facts",
    [
        {"rounds": 0},
        {"clients": 0},
        {"lr": -1.0},
        {"lr": math.nan},
        {"seeds": ()},
        {"seeds": (1, 1)},
        {"test_share": 1.0},
    ],
)
def test_a_plan_that_means_nothing_is_refused(facts: dict[str, object]) -> None:
    with pytest.raises(BadConfig):
        CostPlan(**facts)  # type: ignore[arg-type]


def test_more_clients_than_training_examples_are_refused() -> None:
    with pytest.raises(BadConfig, match="48 training examples for 49 clients"):
        measure(net, blobs(), defenses=[], training=SGD, plan=replace(PLAN, clients=49))


# The encoding, against bytes that are really written and read back.


def plain(tensor: Tensor) -> tuple[bytes, Tensor]:
    written = tensor.numpy().astype("<f4").tobytes()
    return written, torch.from_numpy(np.frombuffer(written, "<f4").copy()).view_as(tensor)


def half(tensor: Tensor) -> tuple[bytes, Tensor]:
    written = tensor.numpy().astype("<f2").tobytes()
    return written, torch.from_numpy(np.frombuffer(written, "<f2").astype("<f4")).view_as(tensor)


def bitmap(tensor: Tensor) -> tuple[bytes, Tensor]:
    flat = tensor.flatten().numpy()
    written = np.packbits(flat != 0).tobytes() + flat[flat != 0].astype("<f4").tobytes()
    cut = -(-flat.size // 8)
    places = np.unpackbits(np.frombuffer(written[:cut], np.uint8))[: flat.size].astype(bool)
    read = np.zeros(flat.size, "f4")
    read[places] = np.frombuffer(written[cut:], "<f4")
    return written, torch.from_numpy(read).view_as(tensor)


def listed(tensor: Tensor) -> tuple[bytes, Tensor]:
    """Number, then place and value of each, bit by bit."""
    flat = tensor.flatten()
    wide, many = math.ceil(math.log2(len(flat))), math.ceil(math.log2(len(flat) + 1))
    kept = flat.nonzero().flatten().tolist()
    bits = format(len(kept), f"0{many}b")
    for place in kept:
        (value,) = np.frombuffer(np.float32(flat[place].item()).tobytes(), "<u4")
        bits += format(place, f"0{wide}b") + format(int(value), "032b")
    read, rest = torch.zeros_like(flat), bits[many:]
    for start in range(0, int(bits[:many], 2) * (wide + 32), wide + 32):
        raw = np.uint32(int(rest[start + wide : start + wide + 32], 2))
        read[int(rest[start : start + wide], 2)] = float(np.frombuffer(raw.tobytes(), "<f4")[0])
    return bytes(-(-len(bits) // 8)), read.view_as(tensor)


def signs(tensor: Tensor) -> tuple[bytes, Tensor]:
    size = tensor.abs().max()
    written = np.float32(size.item()).tobytes() + np.packbits(tensor.flatten().numpy() < 0).tobytes()
    minus = np.unpackbits(np.frombuffer(written[4:], np.uint8))[: tensor.numel()].astype(bool)
    return written, torch.where(torch.from_numpy(minus), -size, size).view_as(tensor)


def bytes8(tensor: Tensor) -> tuple[bytes, Tensor]:
    size = tensor.abs().max()
    whole = (tensor / size * 127).round()
    written = np.float32(size.item()).tobytes() + whole.numpy().astype(np.int8).tobytes()
    read = torch.from_numpy(np.frombuffer(written[4:], np.int8).astype("f4")).view_as(tensor)
    return written, read * size / 127


@pytest.mark.parametrize(
    ("name", "writer"),
    [
        ("none", plain),
        ("gaussian:0.1", plain),
        ("float16+gaussian:0.1", plain),
        ("prune:0.5+gaussian:0.1", plain),
        ("float16", half),
        ("prune:0.6", bitmap),
        ("prune:0.99", listed),
        ("random_mask:0.6", bitmap),
        ("random_mask:0.99", listed),
        ("prune:0.6+clip:1", bitmap),
        ("topk:0.01", listed),
        ("sign", signs),
        ("int8", bytes8),
    ],
)
def test_an_update_can_be_written_in_so_many_bytes_and_read_back(
    name: str, writer: Callable[[Tensor], tuple[bytes, Tensor]]
) -> None:
    shield = defenses.parse(name)
    generator = torch.Generator().manual_seed(0)
    raw = Update("gradient", {"w": torch.randn(37, 53, generator=generator)})
    sent = shield.on_update(raw, generator)
    written, read = writer(sent.tensors["w"])
    assert encoded_bytes(sent, shield.public) == len(written)
    assert torch.allclose(read, sent.tensors["w"], rtol=1e-6, atol=1e-7)


def test_a_step_that_nobody_knows_and_one_that_touches_another_tensor_change_nothing() -> None:
    update = Update("gradient", {"w": torch.zeros(10), "b": torch.ones(10)}, buffers={"n": torch.tensor(3)})
    assert encoded_bytes(update) == 88
    pruned = Mechanism("prune", {"fraction": 0.9}, where=("w",))
    assert encoded_bytes(update, [pruned]) == 1 + 40 + 8
    assert encoded_bytes(update, [pruned, Mechanism("unknown_noise")]) == 88


def test_zeros_of_a_tensor_that_pruning_does_not_touch_are_sent() -> None:
    update = Update("gradient", {"w": torch.zeros(80), "b": torch.zeros(80)})
    assert encoded_bytes(update, [Mechanism("prune", {"fraction": 0.9}, where=("w",))]) == 1 + 320  # 7 bits say "none"
    whole = Update("gradient", {"w": torch.ones(80)})
    assert encoded_bytes(whole, [Mechanism("prune", {"fraction": 0.9})]) == encoded_bytes(whole) == 320


@pytest.mark.parametrize("kind", UNWRITTEN)
def test_what_happens_before_an_update_is_written_does_not_change_how(kind: str) -> None:
    update = Update("gradient", {"w": torch.cat([torch.ones(10), torch.zeros(70)])})
    pruned, step = Mechanism("prune", {"fraction": 0.9}), Mechanism(kind, dict.fromkeys(KINDS[kind].figures, 1.0))
    assert encoded_bytes(update, [pruned, step]) == encoded_bytes(update, [pruned]) == 10 + 40


@pytest.mark.parametrize(("coarse", "bits"), [("int8", 8), ("sign", 1), ("float16", 16)])
def test_coarse_values_of_a_pruned_update_leave_zeros_out(coarse: str, bits: int) -> None:
    update = Update("gradient", {"w": torch.cat([torch.ones(10), torch.zeros(790)])})
    public = (Mechanism("prune", {"fraction": 0.9}), *defenses.parse(coarse).public)
    scale = 0 if coarse == "float16" else 32
    least = min(800 + 10 * bits, 10 + 10 * (10 + bits))  # a bitmap, or how many and which
    assert encoded_bytes(update, public) == math.ceil((least + scale) / 8)
    halved = (*defenses.parse("float16").public, *defenses.parse(coarse).public)
    assert encoded_bytes(update, halved) == math.ceil((800 * bits + scale) / 8)


def test_values_already_coarser_than_what_follows_stay_as_coarse() -> None:
    update = Update("gradient", {"w": torch.ones(80)})
    for first, then in (("int8", "float16"), ("sign", "int8")):
        public = (*defenses.parse(first).public, *defenses.parse(then).public)
        assert encoded_bytes(update, public) == encoded_bytes(update, defenses.parse(first).public)


def test_zeros_of_an_undefended_update_are_sent() -> None:
    update = local_update(net(0), Batch(torch.zeros(2, 2), torch.tensor([0, 1])), training=SGD)
    assert not bool(update.tensors["1.weight"].any())
    assert encoded_bytes(update) == 4 * sum(t.numel() for t in update.tensors.values())


# Costs beside the cells of a run.


def case() -> Case:
    batch = blobs()
    pictures = Batch(batch.inputs.sigmoid().view(60, 1, 1, 2), batch.labels)
    return Case(nn.Sequential(nn.Flatten(), net(0)[1:]), pictures, SGD)  # type: ignore[index]


def test_costs_are_kept_and_only_what_is_missing_is_measured(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    plan = replace(PLAN, rounds=2, seeds=(0, 1))

    def ask(*names: str, plan: CostPlan = plan) -> tuple[Cost, ...]:
        seen.clear()
        return measure_case(case(), tmp_path, defenses=names, plan=plan, on_progress=lambda *now: seen.append(now))

    assert costs_of(tmp_path) == ()
    first = ask("none", "prune:0.5")
    assert seen == [("none", 0), ("none", 1), ("prune:0.5", 0), ("prune:0.5", 1)]
    assert costs_of(tmp_path) == first
    assert ask("prune:0.5") == first
    assert seen == []
    more = ask("prune:0.5", "sign")
    assert seen == [("sign", 0), ("sign", 1)]
    assert more[:2] == first
    assert [cost.defense for cost in costs_of(tmp_path)] == ["none", "prune:0.5", "sign"]
    ask("clip:1")
    assert [cost.defense for cost in costs_of(tmp_path)] == ["none", "clip:1", "prune:0.5", "sign"]
    ask("prune:0.5", plan=replace(plan, rounds=3))
    assert ("prune:0.5", 0) in seen


def test_a_damaged_cost_is_named(tmp_path: Path) -> None:
    (one, *_) = measure(net, blobs(), defenses=[], training=SGD, plan=replace(PLAN, rounds=1, seeds=(0,)))
    write_cost(tmp_path, one)
    path = tmp_path / "costs" / f"{one.id}.json"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(
        StorageFailure, match=rf"{one.id}.json' is no whole JSON file.*delete it and run the same audit"
    ):
        costs_of(tmp_path)


def _answers(*rows: list[float]) -> Fixed:
    return Fixed(torch.tensor(rows))


@pytest.mark.parametrize("labels", [torch.tensor([1, 0, 0, 0]), torch.tensor([[1.0], [0.0], [0.0], [0.0]])])
def test_one_output_says_yes_above_0(labels: Tensor) -> None:
    batch = Batch(torch.zeros(4, 1), labels)
    assert accuracy(_answers([0.2], [-0.1], [3.0], [-2.0]), batch) == 0.75
    assert accuracy(_answers([-1.0], [-1.0], [-1.0], [-1.0]), batch) == 0.75
    assert accuracy(_answers([1.0], [1.0], [1.0], [1.0]), batch) == 0.25
    assert accuracy(_answers([float("nan")], [-1.0], [-1.0], [-1.0]), batch) == 0.75


def test_findings_count_one_by_one() -> None:
    batch = Batch(torch.zeros(2, 1), torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    assert accuracy(_answers([2.0, -1.0, -1.0], [-1.0, -1.0, 5.0]), batch) == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (None, 1.0),  # one yes for each example is a class, unless the loss says otherwise
        ("cross_entropy", 1.0),
        (nn.CrossEntropyLoss(reduction="sum"), 1.0),
        (nn.MSELoss(), 1.0),
        (nn.BCEWithLogitsLoss(), 0.5),
        (nn.BCELoss(), 0.75),
    ],
    ids=["untold", "name", "sum", "squares", "logits", "probabilities"],
)
def test_what_an_answer_is_hangs_on_the_loss(loss: str | LossFunction | None, expected: float) -> None:
    batch = Batch(torch.zeros(2, 1), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert accuracy(_answers([0.9, 0.6], [0.1, 0.8]), batch, loss=loss) == expected


@pytest.mark.parametrize("labels", [torch.tensor([[0.5], [1.0]]), torch.tensor([3, 1]), torch.tensor([[1.5, 2.0]] * 2)])
def test_numbers_have_no_accuracy(labels: Tensor) -> None:
    outputs = labels.shape[1] if labels.ndim == 2 else 1
    with pytest.raises(BadConfig, match=r"no prediction is right or wrong.*leave the costs out"):
        accuracy(Fixed(torch.zeros(2, outputs)), Batch(torch.zeros(2, 1), labels), loss=nn.MSELoss())


def test_a_regression_is_refused_before_any_training() -> None:
    begun: list[str] = []
    batch = Batch(torch.rand(20, 3), torch.linspace(0, 2, 20)[:, None])
    with pytest.raises(BadConfig, match="no prediction is right or wrong"):
        measure(
            nn.Linear(3, 1), batch, defenses=[], training=LocalTraining.fedsgd(loss=nn.MSELoss()),
            on_progress=lambda defense, seed: begun.append(defense),
        )  # fmt: skip
    assert begun == []


def test_a_defense_of_a_yes_or_no_model_costs_something() -> None:
    """One output was always right, so that every defense was free."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 4, generator=generator)
    labels = (inputs[:, :1] > 0).float()
    plan = CostPlan(rounds=8, clients=2, seeds=(0,), lr=2.0)
    training = LocalTraining.fedsgd(loss=nn.BCEWithLogitsLoss())
    none, noisy = measure(nn.Linear(4, 1), Batch(inputs, labels), defenses=["gaussian:5"], training=training, plan=plan)
    assert none.accuracy > 0.85
    assert 0.4 < none.chance < 0.65
    assert noisy.points_lost > 10
    assert none.warning == ""


def test_where_chance_is_1_a_warning_says_so() -> None:
    batch = Batch(torch.rand(20, 3), torch.zeros(20, dtype=torch.long))
    plan = CostPlan(rounds=1, clients=2, seeds=(0,))
    (none,) = measure(nn.Linear(3, 2), batch, defenses=[], training=LocalTraining.fedsgd(), plan=plan)
    assert none.chance == 1
    assert "Every test example has the same label" in none.warning


def test_costs_under_another_loss_are_measured_anew(tmp_path: Path) -> None:
    case = small_case(8)
    plan = CostPlan(rounds=1, clients=2, seeds=(0,))
    first = measure_case(case, tmp_path, defenses=[], plan=plan)
    training = LocalTraining.fedsgd(loss=nn.CrossEntropyLoss(label_smoothing=0.5))
    other = measure_case(replace(case, training=training), tmp_path, defenses=[], plan=plan)
    assert first[0].setting != other[0].setting
    alike = replace(case, training=LocalTraining.fedsgd(loss=nn.CrossEntropyLoss()))
    begun: list[str] = []
    measure_case(case, tmp_path, defenses=[], plan=plan)
    measure_case(alike, tmp_path, defenses=[], plan=plan, on_progress=lambda defense, seed: begun.append(defense))
    assert begun == []
