"""Group consistency: starts are aligned before they are averaged; the answer is chosen by what the attacker sees."""

from __future__ import annotations

from dataclasses import replace

import torch

from attack.cases import observed, pictures, psnr, seeded
from fedseal import Batch, Candidate, Progress, ThreatModel, zoo
from fedseal.attack.labels import Inferred
from fedseal.attack.labels.sign import Sign
from fedseal.attack.search.group import Anchor, GroupConsistency, consensus, registered
from fedseal.attack.search.label_source import Oracle
from fedseal.attack.search.matching import Adam, GradientMatching, Search
from fedseal.attack.search.objective import cosine_distance


def _attack(steps: int = 20) -> GradientMatching:
    optimizer = Adam(lr=0.05, signed=False)
    return GradientMatching(
        "m", labels=Inferred(Sign()), objective=cosine_distance, optimizer=optimizer, steps=steps, box=True
    )


def test_a_shifted_noisy_picture_is_registered_and_an_unrelated_one_is_left() -> None:
    picture = zoo.photos(size=32).inputs[:2]
    noise = 0.05 * torch.randn(picture.shape, generator=seeded())
    moved = (picture + noise).roll((2, -3), (2, 3))
    torch.testing.assert_close(registered(moved, picture, 4), picture + noise)
    far = (registered(moved, picture, 1) - picture).square().mean()
    assert far <= (moved - picture).square().mean()
    assert torch.equal(registered(picture, picture, 4), picture)


def test_examples_are_matched_among_equal_labels_only() -> None:
    inputs = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    one = Candidate(inputs, torch.tensor([0, 0, 1, 1]))
    order = torch.tensor([3, 1, 0, 2])
    other = Candidate(inputs[order] + 0.1, one.labels[order])
    orders, mean = consensus([one, other], shift=0)
    torch.testing.assert_close(mean, inputs + 0.05)
    assert orders[1].tolist() == [2, 1, 3, 0]
    # nearer in value, but of another label
    swapped = Candidate(torch.tensor([[2.0], [3.0], [0.0], [1.0]]), one.labels)
    _, apart = consensus([one, swapped], shift=0)
    torch.testing.assert_close(apart, torch.tensor([[1.0], [2.0], [1.0], [2.0]]))


def test_a_start_is_given_the_mean_in_its_own_order() -> None:
    batch = Batch(pictures(3, dtype=torch.float32).inputs, torch.tensor([1, 1, 2]))
    observation = observed(zoo.lenet(size=8, width=4, num_classes=5), batch, threat=ThreatModel.oracle())
    order = torch.tensor([1, 0, 2])
    starts = (batch.inputs, batch.inputs[order] + 0.2)
    oracle = replace(_attack(), labels=Oracle())
    searches = [Search(replace(oracle, start=start), observation, seeded()) for start in starts]
    anchors = [Anchor(), Anchor()]
    GroupConsistency(oracle, seeds=2, shift=0).agree(anchors, searches)
    assert anchors[0].center is not None
    assert anchors[1].center is not None
    torch.testing.assert_close(anchors[0].center, batch.inputs + 0.1)
    torch.testing.assert_close(anchors[1].center, batch.inputs[order] + 0.1)


def test_several_starts_are_drawn_together() -> None:
    """With a weight that outweighs the update, several starts end as one."""
    batch = pictures(1, dtype=torch.float32)
    observation = observed(zoo.lenet(size=8, width=4, num_classes=5), batch)

    def spread(weight: float) -> float:
        group = GroupConsistency(_attack(60), seeds=3, weight=weight, begin=0.1, every=5, shift=0)
        ends: list[torch.Tensor] = []

        def keep(progress: Progress) -> None:
            assert progress.inputs is not None
            ends.append(progress.inputs.clone())

        group(observation, generator=seeded(), progress=keep)
        alone = group.attack(observation, generator=seeded())
        assert alone.inputs is not None
        return float((ends[-1] - alone.inputs).square().mean())

    assert spread(0.0) < 1e-10  # without weight the first start goes its own way
    assert spread(10.0) > 1e-3


def test_the_smallest_residual_is_kept_and_all_steps_are_counted() -> None:
    batch = pictures(1, dtype=torch.float32)
    observation = observed(zoo.lenet(size=8, width=4, num_classes=5), batch)
    found = GroupConsistency(_attack(), seeds=3, weight=0.0)(observation, generator=seeded(5))
    generator = seeded(5)
    singles = [_attack(1)(observation, generator=generator) for _ in range(3)]
    assert len({single.outcome.residual for single in singles}) == 3
    assert found.outcome.steps == 60
    assert "best of 3 starts" in found.outcome.note
    again = GroupConsistency(_attack(), seeds=1)(observation, generator=seeded(5))
    assert found.outcome.residual is not None
    assert again.outcome.residual is not None
    assert found.outcome.residual <= again.outcome.residual


def test_a_start_that_diverges_does_not_pull_the_others_along() -> None:
    batch = pictures(1, dtype=torch.float32)
    observation = observed(zoo.lenet(size=8, width=4, num_classes=5), batch)
    wild = replace(_attack(), optimizer=Adam(lr=float("inf")), box=False)
    found = GroupConsistency(wild, seeds=2)(observation, generator=seeded())
    assert (found.outcome.status, found.inputs) == ("diverged", None)


def test_starting_at_the_truth_a_group_stays_there() -> None:
    batch = pictures(1, dtype=torch.float32)
    observation = observed(zoo.lenet(size=8, width=4, num_classes=5), batch)
    still = replace(_attack(3), start=batch.inputs, optimizer=Adam(lr=0.0))
    found = GroupConsistency(still, seeds=2)(observation, generator=seeded())
    assert found.outcome.status == "converged"
    assert psnr(found, batch) > 80
