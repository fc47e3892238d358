"""Ten owners with a picture each; what everyone who adds up their updates could read is recorded, and attacked.

Run it in the repository's root: python -m examples.prove_it.prove
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import fedseal as fs
from fedseal.federation import DataOwner, Federation, ModelOwner, View, gradient_step
from fedseal.federation.view import Entry
from fedseal.modality import picture

IMAGE = fs.Image(shape=(3, 32, 32))
PROTOCOLS = ("plain", "sharing", "masking")


@dataclass(frozen=True)
class Row:
    """An attack on something that a party could read.

    Args:
        psnr: of every attacked picture in dB; 0 where the attack gave none.
        blind: what the best of 99 unrelated pictures scores on the same picture.
        inputs: what came out.
    """

    protocol: str
    party: str
    kind: str
    psnr: tuple[float, ...]
    blind: tuple[float, ...]
    identified: int
    inputs: tuple[Tensor, ...]


def prove(folder: Path, *, owners: int = 10, attacked: int = 3, steps: int = 100, sums: bool = True) -> list[Row]:
    """Train for a round under every protocol, and attack the record of each.

    Args:
        folder: for the records, one folder each.
        attacked: owners whose update is attacked.
        steps: of the attack's searches.
        sums: attack the opened sum too.
    """
    data, model = fs.zoo.photos(size=32)[:owners], fs.zoo.lenet()
    team = [DataOwner.holding(data[place : place + 1], gradient_step()) for place in range(owners)]
    rows = []
    for protocol in PROTOCOLS:
        Federation(ModelOwner(model, learning_rate=0.1), team, protocol).fit(1, record=folder / protocol)
        view = View.load(folder / protocol)
        single = (*view.of(0, "step"), *view.of(0, "masked"))[:attacked]
        rows.append(_row(protocol, view, single, data, steps))
        if sums and protocol != "plain":  # the sums of all three are one
            rows.append(_row(protocol, view, view.of(0, "sum"), data, steps))
            sums = False
    return rows


def _row(protocol: str, view: View, entries: Sequence[Entry], data: fs.Batch, steps: int) -> Row:
    model = fs.zoo.lenet()
    model.load_state_dict(view.state(0))
    attack = fs.attack.parse(f"auto:steps={steps}")
    psnr, blind, inputs, identified = [], [], [], 0
    for entry in entries:
        one = entry.sender != "cohort"
        truth = data[int(entry.sender) : int(entry.sender) + 1] if one else data
        # The attacker is told how many pictures there are, which under a secure protocol nobody says.
        update = replace(view.update(entry), num_examples=len(truth))
        threat = fs.ThreatModel.honest_but_curious() if one else fs.ThreatModel.aggregate_only()
        observation = threat.observe(model, update, modality=IMAGE)
        found = attack(observation, generator=torch.Generator().manual_seed(0))
        gallery = fs.zoo.gallery(IMAGE.shape, exclude=data.inputs, count=99)
        for sample in fs.metric.score(found, truth, modality=IMAGE, gallery=gallery).samples:
            psnr.append(sample.psnr.value or 0.0)
            blind.append(sample.psnr.baselines[-1].value or 0.0)
            identified += sample.identification is not None and sample.identification.hit
            shown = None if found.inputs is None or sample.matched is None else found.inputs[sample.matched]
            inputs.append(torch.full(IMAGE.shape, 0.5) if shown is None else IMAGE.decode(shown).clamp(0, 1))
    kind = entries[0].kind
    return Row(protocol, entries[0].party, kind, tuple(psnr), tuple(blind), identified, tuple(inputs))


def main() -> None:
    """Attack, print a table, and write the pictures side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/prove_it"))
    parser.add_argument("--owners", type=int, default=10)
    parser.add_argument("--attacked", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    rows = prove(given.out, owners=given.owners, attacked=given.attacked, steps=given.steps)
    print(
        f"{'protocol':10} {'who could read it':18} {'what':8} {'PSNR, dB':>9} {'blind guess':>12} {'told from 99':>13}"
    )
    for row in rows:
        mean, blind = (sum(values) / len(values) for values in (row.psnr, row.blind))
        share = f"{row.identified} of {len(row.psnr)}"
        print(f"{row.protocol:10} {row.party:18} {row.kind:8} {mean:9.1f} {blind:12.1f} {share:>13}")
    count = min(len(row.inputs) for row in rows)
    truth = list(fs.zoo.photos(size=32)[:count].inputs)
    lines = [picture.strip(truth), *(picture.strip(list(row.inputs[:count])) for row in rows)]
    picture.save(torch.cat(lines, dim=1), given.out / "pictures.png")
    print(f"{given.out / 'pictures.png'}: the owners' pictures, and below them what each line of the table gave")


if __name__ == "__main__":
    main()
