"""Ring all-reduce: the sum of all, what a neighbor reads of it on the way, and masks that hide it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st

import fedseal as fs
from federation.small import ANYBODY, Changed, Losing, Tapped, federation, gap, net, owners, weights
from fedseal.audit.recording import adversary
from fedseal.errors import BadConfig, EngineFailure
from fedseal.federation import DataOwner, Federation, ModelOwner, Secure
from fedseal.federation.owners import gradient_step
from fedseal.federation.packing import Packing
from fedseal.federation.protocol import Ask, Reply
from fedseal.federation.view import View
from fedseal.secagg import SERVER, Outgoing
from fedseal.secagg.ring import Circle, RingSum

RULE = gradient_step()
RINGS = ["ring", "masked_ring"]


@given(st.integers(2, 7), st.integers(0, 40), st.integers(0, 2**32))
def test_all_parties_end_with_the_sum_of_all(count: int, size: int, seed: int) -> None:
    """Wrapping integers, added by numpy in one go."""
    vectors = np.random.default_rng(seed).integers(0, 2**32, (count, size), dtype=np.uint32)
    circle = Circle(tuple(range(count)), size)
    sides = [RingSum(circle, party, vectors[party].copy()) for party in range(count)]
    for hop in range(circle.hops):
        parts = [side.part() for side in sides]
        for party, side in enumerate(sides):
            part, sender = parts[circle.predecessor(party)], circle.predecessor(party)
            if hop < circle.adding:  # who is in it is who was said to be in it
                whole = vectors[list(circle.summed(sender, hop))].sum(0, dtype=np.uint32)
                assert np.array_equal(part, whole[circle.segment(sender, hop)])
            side.take(part)
    assert all(side.done and np.array_equal(side.vector, vectors.sum(0, dtype=np.uint32)) for side in sides)


@pytest.mark.parametrize("protocol", RINGS)
@pytest.mark.parametrize("forgetful", [False, True])
def test_a_ring_trains_as_a_server_that_reads_all(protocol: str, forgetful: bool) -> None:
    engine = Losing(forgetful=forgetful)
    plain, found = federation("plain").fit(2), federation(protocol).fit(2, engine=engine)
    assert gap(weights(plain), weights(found)) < (1e-6 if protocol == "ring" else 1e-4)
    assert [report.clients for report in found.history] == [4, 4]
    assert found.history[-1].metrics["loss"] == pytest.approx(plain.history[-1].metrics["loss"], rel=1e-4)
    assert found.history[-1].weight == plain.history[-1].weight


@pytest.mark.parametrize("protocol", RINGS)
def test_a_ring_needs_all(protocol: str) -> None:
    def lost(ask: Ask) -> bool:
        return ask.to == 2 and ask.round == 0 and ask.step == "hand on"

    history = federation(protocol).fit(2, engine=Losing(lost)).history
    assert "3 of 4 parties answer" in history[0].failure
    assert history[1].clients == 4
    with pytest.raises(BadConfig, match="a ring, which needs all 4"):
        _ = federation(Secure(protocol, minimum=3)).secure
    with pytest.raises(EngineFailure, match="parties answer"):
        federation(protocol).fit(3, engine=Losing(lambda ask: ask.to == 1))


@pytest.mark.parametrize("value", [1e200, 1e37, 1e6, float("nan")])
@pytest.mark.parametrize("which", ["part", "metric", "weight"])
def test_what_no_bounded_steps_add_up_to_costs_a_round_and_not_the_training(value: float, which: str) -> None:
    """A part of 1e200 ended the training of all as diverged, and 1e37 went into everybody's model."""

    def change(reply: Reply) -> Reply:
        (out,) = reply.messages
        if out.to == SERVER or lied:
            return reply
        lied.append(True)
        sent = safetensors.numpy.load(bytes(out.message))
        if which == "weight":
            sent["weight"][:] = 10**9
        else:
            sent["part"][-1 if which == "metric" else 0] = value
        return Reply((Outgoing(out.to, safetensors.numpy.save(sent)),))

    lied: list[bool] = []
    # the last segment of the vector, with the metric at its end, is what owner 3 hands on first
    found = federation("ring").fit(2, engine=Changed(3, change))
    assert [report.clients for report in found.history] == [0, 4]
    assert found.history[0].refused == {"data owner 0": "BadMessage"}
    assert "3 of 4 parties answer" in found.history[0].failure


def test_a_sum_that_no_bounded_steps_add_up_to_is_not_opened() -> None:
    """Whoever conducts the round looks as well, should all parties end with it."""
    size = Packing.of(net()).size
    content = safetensors.numpy.save({"sum": np.full(size + 1, 5000.0), "weight": np.array([4])})

    def change(reply: Reply) -> Reply:
        if any(to != SERVER for to, _ in reply.messages):
            return reply
        return Reply((Outgoing(SERVER, hashlib.sha256(content).digest() + content),))

    with pytest.raises(
        EngineFailure, match=r"nothing was trained: .* in 2 rounds, .* the parties end with no sum of what"
    ):
        federation("ring").fit(2, engine=Changed(ANYBODY, change))


def truth(owner: int) -> dict[str, torch.Tensor]:
    update = fs.local_update(net(), owners()[owner].build_data(), training=fs.LocalTraining.fedsgd())
    return dict(update.tensors)


def test_the_first_hop_is_a_part_of_its_senders_update_to_the_last_bit(tmp_path: Path) -> None:
    federation("ring", rule=RULE).fit(1, record=tmp_path)
    view = View.load(tmp_path)
    firsts = view.of(0, "part")
    pairs = {(entry.party, entry.sender) for entry in firsts}
    assert pairs == {(f"client {(number + 1) % 4}", str(number)) for number in range(4)}
    for entry in firsts:
        update, own = view.update(entry), truth(int(entry.sender))
        missing = {name for step in update.rounding for name in step.where}
        held = {name: tensor != 0 for name, tensor in update.tensors.items()}
        assert sum(int(there.sum()) for there in held.values()) > 0
        assert all(torch.equal(update.tensors[name][there], own[name][there]) for name, there in held.items())
        assert all(torch.equal(update.tensors[name], own[name]) for name in own if name not in missing)
    sums = {tuple(entry.cohort) for entry in view.of(0, "partial sum")}
    assert {len(cohort) for cohort in sums} == {2, 3}


def test_a_masked_hop_is_noise_to_its_neighbor_and_the_line(tmp_path: Path) -> None:
    engine = Tapped()
    federation("masked_ring", rule=RULE).fit(1, record=tmp_path, engine=engine)
    view = View.load(tmp_path)
    assert {entry.kind for entry in view.entries} == {"masked part", "masked partial sum", "sum"}
    for entry in view.of(0, "masked part"):
        update, own = view.update(entry), truth(int(entry.sender))
        held = {name: tensor != 0 for name, tensor in update.tensors.items()}
        assert (
            max(float((update.tensors[n] - own[n])[there].abs().max()) for n, there in held.items() if there.any()) > 1
        )
    parts = engine.heard[: 4 * 6]  # what follows are digests of the sum
    assert len(set(parts)) == len(parts)


def recorded(protocol: str, folder: Path) -> View:
    """Three owners of one photo each, who train a perceptron by one gradient."""
    photos = fs.zoo.photos(size=32)[:3]
    each = [DataOwner.holding(fs.Batch(photos.inputs[n : n + 1], torch.tensor([n])), RULE) for n in range(3)]
    model = fs.zoo.mlp(inputs=3072, widths=(32,), num_classes=10, seed=0)
    Federation(ModelOwner(model), each, protocol).fit(1, record=folder)
    return View.load(folder)


def read(view: View, sender: int) -> fs.Reconstruction:
    """What the next owner's best attack makes of the first hop."""
    (entry,) = (one for one in view.entries if one.sender == str(sender))
    model = fs.zoo.mlp(inputs=3072, widths=(32,), num_classes=10, seed=0)
    update = replace(view.update(entry), num_examples=1)
    observation = adversary(entry).observe(model, update, modality=fs.Image((3, 32, 32)))
    return fs.attack.auto(steps=300)(observation, generator=torch.Generator().manual_seed(0))


def off_by(found: fs.Reconstruction, owner: int) -> float:
    assert found.inputs is not None
    return float((found.inputs[0] - fs.zoo.photos(size=32).inputs[owner]).abs().max())


def test_a_neighbor_reads_a_real_picture_off_the_first_hop_and_none_under_masks(tmp_path: Path) -> None:
    """A third of the gradient is enough: rows of the first layer with biases, or, but for brightness, rows alone."""
    clear = recorded("ring", tmp_path / "clear")
    last, first = read(clear, 2), read(clear, 0)
    assert last.outcome.status == "exact"
    assert bool(last.certain.all())
    assert off_by(last, 2) < 1e-5
    assert first.inputs is not None
    near, true = first.inputs.flatten(), fs.zoo.photos(size=32).inputs[0].flatten()
    assert float(near @ true / near.norm() / true.norm()) > 0.9999
    assert not bool(first.certain.any())
    masked = recorded("masked_ring", tmp_path / "masked")
    for sender in (2, 0):
        found = read(masked, sender)
        assert not bool(found.certain.any())
        assert off_by(found, sender) > 0.3
