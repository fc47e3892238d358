"""What DLG's defenses cost: its table 1 (which strengths ruin training) on Fashion-MNIST, one client, FedSGD.

Model, rate and rounds were chosen on seeds 0 to 2 among some twenty combinations as one where training works without a
defense and noise of 1e-1 ruins it; in most of the others it did not. The figures are those of other seeds.
"""

from __future__ import annotations

from dataclasses import replace

import fedseal as fs
from fedseal.audit.cost import Cost, CostPlan, measure
from fedseal.report.frontier import RUINED

# The noise that FedSGD adds to a weight grows like lr * sigma * sqrt(rounds / clients): one client that answers every
# round leaves nothing to average it away.
PLAN = CostPlan(rounds=1200, clients=1, batch_size=100, lr=0.3, seeds=(3, 4, 5))
LONGER = 3
NOISE = [
    f"{kind}:{strength}" for kind in ("gaussian", "laplace") for strength in ("1e-4", "1e-3", "1e-2", "3e-2", "1e-1")
]
PRECISION = ["float16", "bfloat16", "int8"]
PRUNING = [f"prune:{share}" for share in (0.01, 0.1, 0.2, 0.3, 0.5, 0.7)]


def run(scale: float = 1.0) -> dict[str, object]:
    """Every strength of DLG's section 5 on a tanh perceptron of six layers; 400 pictures train, 100 others test."""
    plan = replace(PLAN, seeds=PLAN.seeds[: max(1, round(len(PLAN.seeds) * scale))])
    costs = _costs([*NOISE, *PRECISION, *PRUNING], plan)
    none = costs[0]
    figures: dict[str, object] = {"none: accuracy": f"{_share(none)}, chance {100 * none.chance:.0f} %"}
    figures |= {f"{cost.defense}: accuracy, points lost, verdict": _told(cost) for cost in costs[1:]}
    figures |= {
        f"{cost.defense}: bytes and seconds an update, against none": (
            f"{cost.bytes_per_update / cost.bytes_without:.3f}; {cost.times:.2f}"
        )
        for cost in costs[1:]
        if not cost.defense.startswith(("gaussian", "laplace")) or cost.defense.endswith(":0.01")
    }
    longer = _costs(["gaussian:1e-2"], replace(plan, rounds=LONGER * plan.rounds))
    return figures | {
        f"gaussian:0.01 over {LONGER} times the rounds: accuracy, points lost, verdict": (
            f"{_told(longer[1])}; none {_share(longer[0])}"
        )
    }


def _costs(names: list[str], plan: CostPlan) -> tuple[Cost, ...]:
    return measure(
        lambda seed: fs.zoo.mlp(widths=(128,) * 6, activation="tanh", seed=seed),
        fs.zoo.fashion_mnist(),
        defenses=names,
        training=fs.LocalTraining.fedsgd(),
        plan=plan,
    )


def _told(cost: Cost) -> str:
    bounds = cost.points_lost_interval
    interval = "one seed" if bounds is None else f"95 % interval {bounds[0]:.1f} to {bounds[1]:.1f}"
    ruined = cost.kept is not None and cost.kept < RUINED
    verdict = "ruined" if ruined else "a loss" if bounds is not None and bounds[0] > 0 else "no clear loss"
    return f"{_share(cost)}; {cost.points_lost:.1f} points ({interval}); {verdict}"


def _share(cost: Cost) -> str:
    bounds = cost.accuracy_interval
    interval = "" if bounds is None else f" ({100 * bounds[0]:.0f} to {100 * bounds[1]:.0f} %)"
    return f"{100 * cost.accuracy:.1f} %{interval}"
