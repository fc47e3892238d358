"""Private gradients against Opacus: single gradients, clipping, and the noise's size; and who is refused."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedseal import Batch, LocalTraining, Update, client, defense, local_update, zoo
from fedseal.client import architecture, example_gradients, state_of
from fedseal.defense.dpsgd import clipped
from fedseal.errors import BadConfig, UnfitBatch, UnfitModel, UnfitUpdate

FEDSGD = LocalTraining.fedsgd()
EVAL = LocalTraining.fedsgd(mode="eval")
BATCH = zoo.photos(size=8, num_classes=5)[:6]


def _seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def _sent(model: nn.Module, specification: str, batch: Batch = BATCH, training: LocalTraining = FEDSGD) -> Update:
    return local_update(model, batch, training=training, defense=defense.parse(specification), generator=_seed())


def test_the_mean_of_clipped_gradients_is_opacus() -> None:
    """Opacus computes single gradients by hooks of its own, and clips in its optimizer.

    Inputs are laid out anew: of pictures with the channels last in memory, Opacus 1.6 takes the wrong windows.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.grad_sample import GradSampleModule
        from opacus.optimizers import DPOptimizer

        model = zoo.lenet(size=8, width=6, num_classes=5)
        sent = _sent(model, "dpsgd:1e-9,clip=2.3")
        wrapped = GradSampleModule(model)
        optimizer = DPOptimizer(
            torch.optim.SGD(wrapped.parameters(), lr=1.0),
            noise_multiplier=0.0,
            max_grad_norm=2.3,
            expected_batch_size=len(BATCH),
        )
        nn.functional.cross_entropy(wrapped(BATCH.inputs.contiguous()), BATCH.labels).backward()  # type: ignore[no-untyped-call]
        norms = torch.stack([p.grad_sample.flatten(1).norm(dim=1) for p in wrapped.parameters()]).norm(dim=0)
        assert norms.min() < 2.3 < norms.max()  # some are clipped, some are not
        optimizer.pre_step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(sent.tensors[name], parameter.grad, rtol=1e-4, atol=1e-6), name


def test_noise_is_the_multiplier_times_the_clip_over_the_number_of_examples() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 200))
    few, many = (
        _sent(model, "dpsgd:3,clip=0.5", BATCH[:count]).tensors["1.weight"]
        - _sent(model, "dpsgd:1e-9,clip=0.5", BATCH[:count]).tensors["1.weight"]
        for count in (2, 6)
    )
    assert float(few.std()) == pytest.approx(3 * 0.5 / 2, rel=0.02)
    assert float(many.std()) == pytest.approx(3 * 0.5 / 6, rel=0.02)


@given(
    rows=st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=5, max_size=5), min_size=1, max_size=4),
    norm=st.floats(1e-2, 1e2),
)
def test_no_example_is_longer_than_the_clip_and_short_ones_stay(rows: list[list[float]], norm: float) -> None:
    flat = torch.tensor(rows)
    out = clipped({"w": flat[:, :4].reshape(-1, 2, 2), "b": flat[:, 4:]}, norm)
    after = torch.cat([out["w"].flatten(1), out["b"]], 1)
    before = flat.double().norm(dim=1)
    assert bool((after.double().norm(dim=1) <= before.clamp_max(norm) * (1 + 1e-5)).all())
    assert torch.equal(after[before <= norm], flat[before <= norm])


class Looking(nn.Module):
    """Looks at a value, so that it cannot be vectorized over examples."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(inputs.flatten(1))
        return outputs if float(inputs.sum()) > 90 else 2 * outputs


def _models() -> dict[str, tuple[nn.Module, LocalTraining, bool]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        normed = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        return {
            "lenet": (zoo.lenet(size=8, width=6, num_classes=5), FEDSGD, True),
            "group norm": (normed, FEDSGD, True),
            "batch norm in eval mode": (zoo.resnet(width=4, blocks=(1,), num_classes=5), EVAL, True),
            "looks at values": (Looking(), FEDSGD, False),
        }


@pytest.mark.parametrize("name", _models())
def test_single_gradients_are_those_of_batches_of_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, training, at_once = _models()[name]
    model = model.double()
    bare, state, inputs = architecture(model, training), state_of(model), BATCH.inputs.double()
    single = [
        client.local_training(bare, state, inputs[[i]], BATCH.labels[[i]], training).tensors for i in range(len(BATCH))
    ]
    if at_once:
        monkeypatch.setattr(client, "local_training", None)
    grads = example_gradients(bare, state, inputs, BATCH.labels, training)
    for key, grad in grads.items():
        assert torch.allclose(grad, torch.stack([one[key] for one in single]), rtol=1e-9, atol=1e-12)


def test_labels_may_be_probabilities_and_frozen_weights_stay_out() -> None:
    model = zoo.lenet(size=8, width=6, num_classes=5).double()
    next(model.parameters()).requires_grad_(False)
    soft = torch.softmax(torch.randn(len(BATCH), 5, generator=_seed(), dtype=torch.float64), 1)
    batch = Batch(BATCH.inputs.double(), soft)
    plain = local_update(model, batch, training=FEDSGD)
    grads = example_gradients(architecture(model, FEDSGD), state_of(model), batch.inputs, soft, FEDSGD)
    assert grads.keys() == plain.tensors.keys()
    assert all(torch.allclose(grads[name].mean(0), plain.tensors[name]) for name in grads)


def test_dropout_drops_for_every_example_anew_and_by_the_generator() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 5))
    batch = Batch(BATCH.inputs[:1].expand(2, -1, -1, -1).abs() + 0.1, torch.tensor([0, 0]))
    bare = architecture(model, FEDSGD)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        grads = example_gradients(bare, state_of(model), batch.inputs, batch.labels, FEDSGD)["2.weight"]
    assert not torch.equal(grads[0] == 0, grads[1] == 0)
    same = [_sent(model, "dpsgd:1e-9,clip=1", batch).tensors["2.weight"] for _ in range(2)]
    assert torch.equal(*same)


def test_batch_norm_by_the_batch_is_refused() -> None:
    model = zoo.resnet(width=4, blocks=(1,), num_classes=5)
    with pytest.raises(UnfitModel, match=r"BatchNorm that normalizes by the batch.*mode='eval', or with GroupNorm"):
        _sent(model, "dpsgd:1")
    untracked = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(192, 5))
    with pytest.raises(UnfitModel, match="'0' is a BatchNorm"):
        _sent(untracked, "dpsgd:1", training=EVAL)


def test_buffers_that_hold_the_examples_are_refused() -> None:
    model = nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True), nn.Flatten(), nn.Linear(192, 5))
    with pytest.raises(UnfitModel, match=r"the buffer '0\.running_mean', which would be sent"):
        _sent(model, "dpsgd:1")


def test_local_steps_are_refused() -> None:
    with pytest.raises(BadConfig, match=r"takes local steps; use LocalTraining\.fedsgd"):
        _sent(zoo.lenet(size=8, num_classes=5), "dpsgd:1", training=LocalTraining.fedavg(lr=0.1))


def test_a_misfit_is_still_told_as_such() -> None:
    with pytest.raises(UnfitBatch, match="cannot train on inputs"):
        _sent(zoo.lenet(size=16, num_classes=5), "dpsgd:1")


def test_gradients_that_no_clip_bounds_and_updates_without_a_count_are_refused() -> None:
    with pytest.raises(UnfitUpdate, match="NaN or infinity, which no clip bounds"):
        clipped({"w": torch.tensor([[1.0], [float("nan")]])}, 1.0)
    with pytest.raises(UnfitUpdate, match="give an update with num_examples"):
        defense.dpsgd(1.0).on_update(Update("gradient", {"w": torch.ones(2)}), _seed())


@pytest.mark.parametrize(
    ("specification", "reason"),
    [
        ("dpsgd", "either a noise multiplier, or an epsilon with a number of steps"),
        ("dpsgd:1,epsilon=3,steps=5", "either a noise multiplier, or an epsilon"),
        ("dpsgd:epsilon=3", "epsilon with a number of steps"),
        ("dpsgd:epsilon=0,steps=5", "target epsilon of 0.0; give a positive number"),
        ("dpsgd:epsilon=nan,steps=5", "target epsilon of nan"),
        ("dpsgd:epsilon=3,steps=0", "0 steps to account for"),
        ("dpsgd:0", "a noise multiplier of 0.0; give a positive number"),
        ("dpsgd:-1", "a noise multiplier of -1.0; give a positive number"),
        ("dpsgd:nan", "a noise multiplier of nan"),
        ("dpsgd:1,clip=0", "clipping examples to the norm 0.0"),
        ("dpsgd:1,sample_rate=0", "a sample rate of 0.0"),
        ("dpsgd:1,sample_rate=1.5", "a sample rate of 1.5"),
        ("dpsgd:1,delta=0", "a delta of 0.0"),
        ("dpsgd:1,delta=1", "a delta of 1.0"),
    ],
)
def test_figures_out_of_range_are_refused(specification: str, reason: str) -> None:
    with pytest.raises(BadConfig, match=reason):
        defense.parse(specification)
