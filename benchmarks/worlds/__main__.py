"""Judge worlds by their seeds, or look for the smallest world with a kind of fault, and print scripts.

python -m benchmarks.worlds --seed 17
python -m benchmarks.worlds --count 300 --failures failures.md
python -m benchmarks.worlds --find "false certificate"
python -m benchmarks.worlds --again 300 --processes 2
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.worlds import every, journal, one, tally
from benchmarks.worlds.generate import World
from benchmarks.worlds.journal import differs
from benchmarks.worlds.judgement import KINDS, Judgement, Kind, judge
from benchmarks.worlds.table import CLOSED, PLANNER, SEARCHES


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="the world, or the first of --count")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--failures", type=Path, help="append scripts of what fails to this file")
    parser.add_argument("--find", choices=KINDS, help="look for the smallest world with this fault")
    parser.add_argument("--again", type=int, help="judge so many of the kept worlds by the code as it is, and compare")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.again:
        _again(asked.again, asked.processes)
    elif asked.find:
        _found(asked.find)
    elif asked.count == 1:
        _one(one(asked.seed or 0))
    else:
        first = asked.seed or 0
        judged = list(every(range(first, first + asked.count), processes=asked.processes))
        for name, value in tally.figures(judged).items():
            print(f"{name}: {value}")
        if asked.failures:
            with asked.failures.open("a") as file:
                file.write(tally.failures(judged, KINDS))


def _again(count: int, processes: int) -> None:
    """Judgements hang on the code that makes them: where it changed, this shows whether it changed any."""
    code = journal.last_code(journal.KEPT)
    before = journal.kept(journal.KEPT, code)
    seeds = sorted(before)[:: max(1, len(before) // count)][:count]
    parted = [(seed, words) for seed, one in every(seeds, processes=processes) if (words := differs(one, before[seed]))]
    print(f"{len(seeds)} of {len(before)} worlds that {code} judged, judged again by {journal.code()}")
    print(f"the same but for the time: {len(seeds) - len(parted)}; otherwise: {len(parted)}")
    for seed, words in parted:
        print(f"  world {seed}: {words}")


def _one(numbered: tuple[int, Judgement]) -> None:
    judgement = numbered[1]
    fault = next(iter(judgement.faults), None)
    print(tally.script(judgement.world, *(_culprit(judgement) if fault else (PLANNER, "honest_but_curious"))))
    print("#", judgement.refused or f"determined: {judgement.determined}, sensitivity: {judgement.sensitivity}")
    for read in judgement.reads:
        print(f"# {read.attack} as {read.threat}: {read.status} by {read.route}, {read.psnr:.1f} dB, {read.certain}")
    for fault in judgement.faults:
        print(f"# {fault.kind} by {fault.attack} as {fault.threat}: {fault.words}")


def _culprit(judgement: Judgement) -> tuple[str, str]:
    return tally.specification(judgement.faults[0].attack), judgement.faults[0].threat


def _found(kind: Kind) -> None:
    from benchmarks.worlds.shrink import smallest

    def fails(world: World) -> bool:
        return bool(judge(world, (*CLOSED, *SEARCHES[:2])).of(kind))

    _one((0, judge(smallest(fails), (*CLOSED, *SEARCHES[:2]))))


if __name__ == "__main__":
    main()
