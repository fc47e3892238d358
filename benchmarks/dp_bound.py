"""Noise for privacy: how often an attacker who knows ten candidates names the target, beside the most any attack can.

Everything but the target is known to the attacker: weights, clip norm, noise, the seven other examples. Three games
differ in the candidates; the bound is one for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import fedseal as fs
from fedseal.attack.inference.candidates import Hypotheses, KnownCandidates
from fedseal.client import local_training, state_of
from fedseal.metric.bound import BoundPoint, Estimate, gaussian_bound, simplex, subsampled
from fedseal.report.bound_plot import bound_sheet
from fedseal.types import Defense, Tensors

NOISES, COURSES = (0.5, 1.0, 2.0, 4.0), ((1, 1.0), (10, 1.0), (1, 0.1), (10, 0.1))  # (steps, sampling rate)
KAPPA, CLIP, DRAWS, WHOLE = 0.1, 0.1, 4_000_000, 1_000  # rounds drawn for one cell; whole clients of one game
TRAINING = fs.LocalTraining.fedsgd()
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "dp-bound.svg"


class Game:
    """Candidates, the examples beside the target, and the weights of ten steps of a training on public pictures."""

    def __init__(self, name: str, model: nn.Module, candidates: fs.Batch, others: fs.Batch) -> None:
        self.name, self.model, self.attack = name, model, KnownCandidates(candidates, others[:7])
        public, state = others[7:], state_of(model)
        self.states: list[Tensors] = []
        for _ in range(max(steps for steps, _ in COURSES)):
            self.states.append(state)
            moved = local_training(model, state, public.inputs, public.labels, TRAINING).tensors
            state = {n: t.detach() - 0.1 * moved[n] if n in moved else t for n, t in state.items()}

    def batch(self, target: int) -> fs.Batch:
        """The client's batch: the known examples, then the target."""
        one, known = self.attack.candidates[target : target + 1], self.attack.known
        assert known is not None
        return fs.Batch(torch.cat([known.inputs, one.inputs]), torch.cat([known.labels, one.labels]))

    def observe(self, state: Tensors, target: int, defense: Defense, generator: torch.Generator) -> fs.Observation:
        """What the server sees of one step."""
        self.model.load_state_dict(dict(state))
        batch = self.batch(target)
        update = fs.local_update(self.model, batch, training=TRAINING, defense=defense, generator=generator)
        image = fs.Image(shape=(batch.inputs.shape[1], batch.inputs.shape[2], batch.inputs.shape[3]))
        return fs.ThreatModel.honest_but_curious().observe(self.model, update, modality=image, defense=defense)

    def added(self) -> Tensor:
        """What the candidates add in every step, `(R, K, K)`, in coordinates of their span, noise multiplier 1.

        Normal noise stays normal in them, and what lies outside tells nothing: trials cost K numbers in place of D.
        """
        rows = []
        for state in self.states:
            seen = self.observe(state, 0, _dpsgd(1.0), torch.Generator().manual_seed(0))
            one = self.attack.fit(seen)
            added = (one.added * one.per_noise.unsqueeze(1))[0]
            rows.append(added @ torch.linalg.qr(added.T).Q)
        return torch.stack(rows)


def run(scale: float = 1.0) -> dict[str, object]:
    """All cells of all games, then whole clients in place of the shortened trials."""
    draws, generator = max(100_000, round(DRAWS * scale)), torch.Generator().manual_seed(0)
    bounds = {
        (noise, *course): subsampled(KAPPA, noise, course[1], course[0], generator=generator, draws=1_000_000)
        for noise in NOISES
        for course in COURSES
    }
    figures: dict[str, object] = {}
    everything: list[BoundPoint] = []
    for game in games():
        found = cells(game, bounds, draws, generator)
        everything += found
        figures |= {_name(cell): _say(cell) for cell in found}
        hits, count = whole_clients(game, max(50, round(WHOLE * scale)), generator)
        bound = bounds[(1.0, 1, 1.0)]
        cell = BoundPoint(game.name, 1.0, 1, 1.0, KAPPA, hits, count, bound)
        figures[f"{_name(cell)}, whole clients"] = _say(cell)
    figures["a regular simplex in theory, noise 1, 1 step"] = (
        f"{simplex(10, 1.0):.4f} of a bound of {gaussian_bound(KAPPA, 1.0):.4f}"
    )
    figures["cells within the bound"] = f"{sum(cell.within for cell in everything)} of {len(everything)}"
    if scale >= 1:
        FIGURE.write_text(drawn(everything))
    for cell in everything:
        if (cell.noise, cell.steps, cell.sample_rate) == (1.0, 1, 1.0):
            low, high = (100 * end / cell.bound.value for end in cell.interval)
            figures[f"{cell.game}: share of the bound at noise 1, 1 step"] = (
                f"{100 * cell.share:.1f} % (95 % interval {low:.1f} to {high:.1f} %)"
            )
    return figures


def drawn(found: Sequence[BoundPoint]) -> str:
    """A picture of each course, as one SVG file."""
    return bound_sheet([[c for c in found if (c.steps, c.sample_rate) == course] for course in COURSES])


def games() -> Sequence[Game]:
    """The class of one picture, a picture of each class, and natural pictures before DLG's LeNet."""
    fashion, photos = fs.zoo.fashion_mnist(), fs.zoo.photos(size=32, num_classes=10)
    flat = fs.zoo.mlp(widths=(32,))
    with torch.no_grad():  # a head at zero holds all classes for equally likely, as many trainings start
        flat[-1].weight.zero_()  # type: ignore[operator]
        flat[-1].bias.zero_()  # type: ignore[operator]
    one = fs.Batch(fashion.inputs[:1].expand(10, -1, -1, -1), torch.arange(10))
    return (
        Game("class of a picture, perceptron with its head at zero", flat, one, fashion[100:]),
        Game("ten pictures of ten classes, perceptron", fs.zoo.mlp(widths=(32,)), fashion[:10], fashion[100:]),
        Game("ten natural pictures, sigmoid LeNet", fs.zoo.lenet(num_classes=10), photos[:10], photos[10:]),
    )


def cells(
    game: Game, bounds: dict[tuple[float, int, float], Estimate], draws: int, generator: torch.Generator
) -> list[BoundPoint]:
    """One cell for each noise, number of steps and sampling rate."""
    added, found = game.added(), []
    for (noise, steps, rate), bound in bounds.items():
        shifts = added[:steps] / noise
        judge = Hypotheses(
            torch.zeros(steps, shifts.shape[1], dtype=torch.float64),
            shifts,
            torch.ones(steps, shifts.shape[1], dtype=torch.float64),
            torch.full((shifts.shape[1],), KAPPA, dtype=torch.float64).log(),
            rate,
        )
        hits, trials, part = 0, draws // steps, 100_000 // steps
        for first in range(0, trials, part):
            count = min(part, trials - first)
            target = torch.randint(shifts.shape[1], (count,), generator=generator)
            present = torch.rand(count, steps, 1, generator=generator, dtype=torch.float64) < rate
            seen = torch.randn(count, steps, shifts.shape[1], generator=generator, dtype=torch.float64)
            seen += present * shifts[:, target].transpose(0, 1)
            hits += int((judge.log_posterior(seen).argmax(-1) == target).sum())
        found.append(BoundPoint(game.name, noise, steps, rate, KAPPA, hits, trials, bound))
    return found


def whole_clients(game: Game, trials: int, generator: torch.Generator) -> tuple[int, int]:
    """The same with clients that train and send, one step at noise multiplier 1: hits and trials."""
    defense = _dpsgd(1.0)
    judge = game.attack.fit(game.observe(game.states[0], 0, defense, generator))
    hits = 0
    for _ in range(trials):
        target = int(torch.randint(10, (), generator=generator))
        hits += judge(game.observe(game.states[0], target, defense, generator)).choice == target
    return hits, trials


def _dpsgd(noise: float) -> Defense:
    return fs.defense.parse(f"dpsgd:{noise:g},clip={CLIP:g}")


def _name(cell: BoundPoint) -> str:
    steps = "1 step" if cell.steps == 1 else f"{cell.steps} steps"
    return f"{cell.game}: noise {cell.noise:g}, {steps}, sampling rate {cell.sample_rate:g}"


def _say(cell: BoundPoint) -> str:
    low, high = cell.interval
    bound = f"{cell.bound.value:.4f}"
    if cell.bound.high > cell.bound.low:
        bound += f" ({cell.bound.low:.4f} to {cell.bound.high:.4f})"
    return f"{cell.success:.4f} ({low:.4f} to {high:.4f}) of {cell.trials}, bound {bound}: {100 * cell.share:.1f} %"
