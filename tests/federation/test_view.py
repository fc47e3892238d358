"""What parties could read, as a recorder keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fedseal as fs
from federation.small import STEPS, Losing, Tapped, federation, gap, net, owners, reports, weights
from fedseal.errors import BadConfig, StorageFailure
from fedseal.federation.federation import Federation
from fedseal.federation.gossip import Gossip
from fedseal.federation.owners import ModelOwner, gradient_step, local_steps
from fedseal.federation.protocol import Ask, Reply
from fedseal.federation.secure import Secure
from fedseal.federation.view import View
from fedseal.secagg import Outgoing, aggregator

RULE = gradient_step()


def recorded(protocol: str, folder: Path, rounds: int = 1, **facts: object) -> View:
    federation(protocol, rule=RULE).fit(rounds, record=folder, **facts)  # type: ignore[arg-type]
    return View.load(folder)


def truth(owner: int) -> fs.Update:
    return fs.local_update(net(), owners()[owner].build_data(), training=fs.LocalTraining.fedsgd())


def distance(update: fs.Update, owner: int) -> float:
    return gap(dict(update.tensors), dict(truth(owner).tensors))


def test_a_plain_server_reads_every_owners_update(tmp_path: Path) -> None:
    view = recorded("plain", tmp_path)
    seen = view.of(0, "step")
    assert [entry.sender for entry in seen] == ["0", "1", "2", "3"]
    for entry in seen:
        update = view.update(entry)
        assert distance(update, int(entry.sender)) == 0
        assert (update.kind, update.num_examples) == ("gradient", entry.weight)
        assert update.training == RULE.training
    assert gap(view.state(0), weights(net())) == 0


def test_a_record_has_what_was_sent_in_a_round_that_opened_nothing(tmp_path: Path) -> None:
    lost = Losing(lambda ask: ask.to == 1)
    reports(federation(Secure("plain", minimum=4), rule=RULE), 1, record=tmp_path, engine=lost)
    seen = View.load(tmp_path).of(0, "step")
    assert [entry.sender for entry in seen] == ["0", "2", "3"]


def test_a_record_of_owners_with_different_defenses_is_refused_before_it_begins(tmp_path: Path) -> None:
    rules = [gradient_step(), gradient_step(defense=fs.defense.parse("prune:0.5"))]
    each = [replace(owner, model_fn=rules[place % 2]) for place, owner in enumerate(owners())]
    with pytest.raises(BadConfig, match=r"different defenses, 'none' and 'prune:0.5'"):
        Federation(ModelOwner(net()), each, "plain").fit(1, record=tmp_path / "seen")
    with pytest.raises(BadConfig, match="different defenses"):
        Gossip(ModelOwner(net()), each).fit(1, record=tmp_path / "seen")
    assert not (tmp_path / "seen").exists()


@pytest.mark.parametrize("protocol", ["plain", "sharing"])
def test_a_record_goes_on_where_its_training_does(protocol: str, tmp_path: Path) -> None:
    folder, place = tmp_path / "seen", tmp_path / "run.safetensors"
    before = recorded(protocol, folder, checkpoint=place)
    after = recorded(protocol, folder, 2, checkpoint=place, resume=True)
    assert after.rounds == (0, 1)
    assert tuple(entry for entry in after.entries if entry.round == 0) == before.entries
    other = federation(Secure(protocol, bound=4.0), rule=RULE) if protocol == "sharing" else federation(protocol)
    reports(other, 1, record=folder, engine=Losing(lambda ask: True))
    assert View.load(folder).entries == (), "another training's messages are not in this one's record"


def test_what_a_step_is_may_be_said_after_it_was_recorded(tmp_path: Path) -> None:
    view = recorded("plain", tmp_path)
    (entry, *_) = view.of(0, "step")
    told = replace(view, training=None).update(entry, training=RULE.training)
    assert told.kind == "gradient"
    assert distance(told, 0) == 0


def test_a_record_names_no_training_where_owners_do_different_things(tmp_path: Path) -> None:
    team = [*owners(3, RULE), owners(4, local_steps(lr=0.3))[3]]
    for place, one in (
        ("star", Federation(ModelOwner(net()), team, "plain")),
        ("gossip", Gossip(ModelOwner(net()), team)),
    ):
        one.fit(1, record=tmp_path / place)
        assert View.load(tmp_path / place).training is None


def test_a_masking_server_reads_noise(tmp_path: Path) -> None:
    view = recorded("masking", tmp_path)
    assert {entry.kind for entry in view.entries} == {"masked", "sum"}
    for entry in view.of(0, "masked"):
        assert entry.party == "the server"
        assert distance(view.update(entry), int(entry.sender)) > 1


def test_a_server_that_takes_off_what_clients_hand_over_is_left_with_masks_that_cancel_in_the_sum_only(
    tmp_path: Path,
) -> None:
    view = recorded("masking", tmp_path)
    vectors = [view.update(entry).tensors for entry in view.of(0, "masked")]
    weights = [len(owners()[owner].build_data()) for owner in range(4)]
    ring = _span(view)
    for name in vectors[0]:
        off = torch.stack([vector[name] for vector in vectors]).sum(0)
        off = off - torch.stack([weights[owner] * truth(owner).tensors[name] for owner in range(4)]).sum(0)
        assert float(((off + ring / 2) % ring - ring / 2).abs().max()) < 1e-2


def _span(view: View) -> float:
    assert view.ring is not None
    return float(2.0**view.ring.bits / view.ring.scale)


def test_aggregators_read_noise_unless_all_collude(tmp_path: Path) -> None:
    view = recorded("sharing", tmp_path)
    assert {entry.party for entry in view.of(0, "seed")} == {"aggregator 1", "aggregator 2"}
    for entry in view.of(0, "masked"):
        owner = int(entry.sender)
        assert entry.party == "aggregator 0"
        for others in ((), ("aggregator 1",), ("aggregator 2",)):
            assert distance(view.update(entry, others), owner) > 1
        weight = len(owners()[owner].build_data())
        opened = view.update(entry, ("aggregator 1", "aggregator 2"))
        assert gap({n: t / weight for n, t in opened.tensors.items()}, dict(truth(owner).tensors)) < 1e-5


def test_the_share_of_a_seed_is_what_it_stretches_to(tmp_path: Path) -> None:
    """So that all aggregators' shares add up to the owner's step, and each alone is noise."""
    view = recorded(
        "sharing",
        tmp_path,
    )
    ring = _span(view)
    for owner in range(2):
        sent = [entry for entry in view.entries if entry.sender == str(owner)]
        shares = [view.update(entry).tensors for entry in sent]
        assert [entry.kind for entry in sent].count("seed") == 2
        weight = len(owners()[owner].build_data())
        for name, tensor in truth(owner).tensors.items():
            assert min(gap({name: share[name]}, {name: tensor}) for share in shares) > 1
            off = torch.stack([share[name].double() for share in shares]).sum(0) - weight * tensor
            assert float(((off + ring / 2) % ring - ring / 2).abs().max()) < 1e-2


@pytest.mark.parametrize("protocol", ["plain", "sharing", "masking"])
def test_the_opened_sum_is_the_mean_of_all(protocol: str, tmp_path: Path) -> None:
    view = recorded(protocol, tmp_path, rounds=2)
    for round in (0, 1):
        (entry,) = view.of(round, "sum")
        assert (entry.party, entry.clients, entry.weight) == ("the owner", 4, 15)
    update = view.update(view.of(0, "sum")[0])
    assert update.num_clients == 4
    for name, tensor in update.tensors.items():
        parts = [len(owners()[owner].build_data()) / 15 * truth(owner).tensors[name] for owner in range(4)]
        assert float((tensor - torch.stack(parts).sum(0)).abs().max()) < 1e-6


def test_differences_and_a_client_that_vanished(tmp_path: Path) -> None:
    engine = Losing(lambda ask: ask.to == 1 and ask.step == "train")
    federation("plain", rule=STEPS).fit(1, engine=engine, record=tmp_path)
    view = View.load(tmp_path)
    assert [entry.sender for entry in view.of(0, "step")] == ["0", "2", "3"]
    assert view.update(view.of(0, "step")[0]).kind == "difference"


class _Spoiling(Tapped):
    """Changes a byte in what client 1 sends to aggregator 1."""

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Reply]]:
        for ask, reply in super().ask(asks):
            spoiled = ask.to == 1 and ask.step == "train"
            yield ask, Reply(tuple(_spoiled(m) if spoiled else m for m in reply.messages), reply.refused)


def _spoiled(message: Outgoing) -> Outgoing:
    changed = bytearray(message.message)
    changed[70] ^= message.to == aggregator(1)
    return Outgoing(message.to, changed)


def test_a_message_that_does_not_open_is_not_recorded_and_ends_no_round(tmp_path: Path) -> None:
    trained = federation("sharing", rule=RULE).fit(1, engine=_Spoiling(), record=tmp_path)
    assert (trained.history[0].failure, trained.history[0].clients) == ("", 3)
    seeds = [(entry.party, entry.sender) for entry in View.load(tmp_path).of(0, "seed")]
    assert ("aggregator 1", "1") not in seeds
    assert {("aggregator 2", "1"), ("aggregator 1", "0")} <= set(seeds)


def test_a_damaged_record(tmp_path: Path) -> None:
    with pytest.raises(StorageFailure, match="no whole record"):
        View.load(tmp_path)
    view = recorded("plain", tmp_path)
    (tmp_path / view.entries[0].file).write_bytes(b"x")
    with pytest.raises(StorageFailure, match="cannot be read"):
        view.update(view.entries[0])
    (tmp_path / "view.json").write_text("{}")
    with pytest.raises(StorageFailure, match="no whole record"):
        View.load(tmp_path)
