"""What each site of a simulated NVFlare job runs: a step of SGD on its one picture in each round.

It keeps for itself what it sent, so that a record can be held against it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn


class Perceptron(nn.Module):
    """Two layers over a picture of 3 x 4 x 4."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(48, 16), nn.Linear(16, 3)

    def forward(self, pictures: Tensor) -> Tensor:
        scores: Tensor = self.last(torch.relu(self.first(pictures.flatten(1))))
        return scores


def picture(site: str) -> Tensor:
    """A site's picture."""
    return torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(sum(site.encode())))


def stepped(state: dict[str, Tensor], site: str) -> dict[str, Tensor]:
    """A state after a step at a site; layers that the server does not send are the site's own."""
    model = Perceptron()
    model.load_state_dict(state, strict=False)
    loss = nn.functional.cross_entropy(model(picture(site)), torch.tensor([1]))
    loss.backward()  # type: ignore[no-untyped-call]
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    return dict(model.state_dict())


def main(folder: Path, layers: str) -> None:
    """Answer the server with those layers whose names begin so."""
    import nvflare.client as flare

    flare.init()
    while flare.is_running():
        received = flare.receive()
        site = flare.get_site_name()
        before = {name: torch.as_tensor(array) for name, array in received.params.items()}
        after = {name: tensor for name, tensor in stepped(before, site).items() if name.startswith(layers)}
        folder.mkdir(parents=True, exist_ok=True)
        moved = {name: tensor - before[name] for name, tensor in after.items() if name in before}
        torch.save(moved, folder / f"{received.current_round}-{site}.pt")
        flare.send(flare.FLModel(params=after, metrics={"loss": 0.0}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
