"""Measure every section, or those named, and write docs/benchmarks.md from the measured JSON.

python -m benchmarks [SECTION ...] [--scale 0.1]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks import (
    batch,
    cocktail,
    cost,
    defenses,
    defenses_sweep,
    dlg_setting,
    dp_bound,
    eavesdropper,
    fedavg,
    federation,
    femnist,
    grid,
    labels,
    neighbors,
    one_model,
    overhead,
    patches,
    property,
    published,
    relu,
    secagg,
    separation,
    smallest,
    spear,
    startup,
    tables,
    text,
    text_search,
    variations,
    worlds,
)

SECTIONS = {
    "dlg_setting": dlg_setting,
    "variations": variations,
    "relu": relu,
    "eavesdropper": eavesdropper,
    "patches": patches,
    "overhead": overhead,
    "startup": startup,
    "labels": labels,
    "separation": separation,
    "spear": spear,
    "cocktail": cocktail,
    "femnist": femnist,
    "fedavg": fedavg,
    "batch": batch,
    "tables": tables,
    "text": text,
    "text_search": text_search,
    "property": property,
    "defenses": defenses,
    "defenses_sweep": defenses_sweep,
    "dp_bound": dp_bound,
    "worlds": worlds,
    "smallest": smallest,
    "cost": cost,
    "grid": grid,
    "secagg": secagg,
    "federation": federation,
    "one_model": one_model,
    "neighbors": neighbors,
    "published": published,  # reads what the sections before it wrote
}
HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results", HERE.parent / "docs" / "benchmarks.md"


def main() -> None:
    """Run the sections asked for; at full scale, keep their results and rewrite the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="default: all")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the pairs; below 1 nothing is written")
    asked = parser.parse_args()
    for name in asked.sections or SECTIONS:
        started = time.perf_counter()
        print(f"{name} ...", flush=True)
        figures = SECTIONS[name].run(asked.scale)
        for figure, value in figures.items():
            print(f"  {figure}: {value}", flush=True)
        if asked.scale == 1.0:
            RESULTS.mkdir(exist_ok=True)
            result = {"about": SECTIONS[name].__doc__, "figures": figures, **_circumstances(started)}
            (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    if asked.scale == 1.0:
        PAGE.write_text(page())
        print(f"wrote {PAGE.relative_to(HERE.parent)}")


def _circumstances(started: float) -> dict[str, object]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "torch": version("torch"),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }


def page() -> str:
    """docs/benchmarks.md, from the results on disk."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench` from `benchmarks/results/*.json`; do not edit. Every section measures both sides in",
        "one run, on the same updates. Intervals are 95 %: exact for shares, by order statistics for medians.",
    ]
    for name in SECTIONS:
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text())
        lines += ["", f"## {result['about'].splitlines()[0]}", ""]
        lines.append(
            f"`python -m benchmarks {name}`, {result['date']}, torch {result['torch']}, {result['threads']} threads, "
            f"{result['minutes']} minutes."
        )
        lines += ["", "| figure | measured |", "|---|---|"]
        lines += [f"| {figure} | {value} |" for figure, value in result["figures"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
