"""Ten owners with a picture each; what everyone who adds up their updates could read is recorded, and attacked.

Run it in the repository's root: python -m examples.prove_it.prove
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import fedseal as fs
from fedseal.audit import Record, pictures, recording, summarize
from fedseal.federation import DataOwner, Federation, ModelOwner, View, gradient_step
from fedseal.federation.view import Shelf
from fedseal.modality import picture
from fedseal.report import html

PROTOCOLS = ("plain", "sharing", "masking")
CONTROL = "control"  # random numbers in the place of updates


def prove(folder: Path, *, owners: int = 10, attacked: int = 3, steps: int = 60) -> dict[str, Record]:
    """Train for a round under every protocol, and attack what each party could read.

    Args:
        folder: for the records and the audits of them.
        attacked: owners whose message is attacked, at every party.
        steps: of the attack's searches.
    """
    data, model = fs.zoo.photos(size=32)[:owners], fs.zoo.lenet()
    team = [DataOwner.holding(data[place : place + 1], gradient_step()) for place in range(owners)]
    audits = {}
    for protocol in (*PROTOCOLS, CONTROL):
        if protocol == CONTROL:
            _random_numbers(folder / protocol, View.load(folder / "sharing"))
        else:
            Federation(ModelOwner(model, learning_rate=0.1), team, protocol).fit(1, record=folder / protocol)
        audits[protocol] = recording.audit_recording(
            View.load(folder / protocol),
            model,
            lambda _, owner: data[owner : owner + 1],
            out=folder / f"{protocol}-audit",
            attacks=[f"auto:steps={steps}"],
            samples=attacked,
            name=f"{protocol}, {owners} owners",
        )
    return audits


def _random_numbers(folder: Path, like: View) -> None:
    """A record of nobody's updates, over the range of masked ones: what an attack gives on it, it gives on anything."""
    assert like.ring is not None
    shelf, generator = Shelf(folder, like.packing, like.training), torch.Generator().manual_seed(0)
    shelf.model(0, like.state(0))
    span = 2.0**like.ring.bits / like.ring.scale
    for entry in like.of(0, "masked"):
        numbers = span * (torch.rand(like.packing.size, generator=generator, dtype=torch.float64) - 0.5)
        shelf.keep(0, "nobody", entry.sender, "step", {"step": numbers})
    shelf.close()


def main() -> None:
    """Attack, print a table, write the report, and the pictures side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/prove_it"))
    parser.add_argument("--owners", type=int, default=10)
    parser.add_argument("--attacked", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    audits = prove(given.out, owners=given.owners, attacked=given.attacked, steps=given.steps)
    print(f"{'protocol':9} {'who could read what':32} {'PSNR, dB':>9} {'blind guess':>12} {'told from others':>17}")
    rows = [fs.zoo.photos(size=32)[: given.attacked].inputs]
    for protocol, record in audits.items():
        for group in summarize(record):
            blind = max(value for _, value in group.baselines)
            told = f"{group.identification.hits} of {group.identification.trials}"
            print(f"{protocol:9} {group.threat:32} {group.mean or 0.0:9.1f} {blind:12.1f} {told:>17}")
            shown = [pictures(record, cell).reconstruction for cell in record.cells if group.holds(cell)]
            rows.append(torch.cat([one for one in shown if one is not None])[: given.attacked])
    picture.save_picture(torch.cat([picture.strip(list(row)) for row in rows], dim=1), given.out / "pictures.png")
    html(list(audits.values()), given.out / "report.html")
    print(
        f"{given.out / 'report.html'}, and the owners' pictures above what each line gave: {given.out / 'pictures.png'}"
    )


if __name__ == "__main__":
    main()
