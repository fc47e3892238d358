"""Small worlds drawn at random: whether what is called certain is true, and nobody is beaten who should not be.

`python -m benchmarks worlds` judges 5,000 of them and prints the table; `python -m benchmarks.worlds --seed K` judges
one and prints its script, `--find KIND` looks for the smallest world with a kind of fault.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import torch

from benchmarks.worlds import cost, journal, table, tally
from benchmarks.worlds.generate import from_seed
from benchmarks.worlds.judgement import GRAVE, Fault, Judgement, judge

WORLDS = 5000


def run(scale: float = 1.0) -> dict[str, object]:
    """Judge the worlds, saying what must never be as it comes, and count; then what the certificate costs.

    What was judged by the same code before is not judged again.
    """
    seeds, code = range(max(1, round(WORLDS * scale))), journal.code()
    before = journal.kept(journal.KEPT, code)
    judged = [(seed, before[seed]) for seed in seeds if seed in before]
    missing = [seed for seed in seeds if seed not in before]
    for one_more in journal.keeping(every(missing), journal.KEPT, code):
        judged.append(one_more)
        if said := grave([one_more]):
            print(said, file=sys.stderr, flush=True)
    if missing and scale >= 1:
        journal.forget_others(journal.KEPT, code)
    spent = {"processor hours of judging": round(sum(judgement.seconds for _, judgement in judged) / 3600, 2)}
    return tally.figures(judged) | spent | cost.figures(scale)


def every(seeds: Iterable[int], *, processes: int | None = None) -> Iterator[tuple[int, Judgement]]:
    """Judge the worlds of these seeds, as many at a time as there are processors."""
    workers = processes or min(os.cpu_count() or 1, 8)
    if workers == 1:
        yield from map(one, seeds)
        return
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawned, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(one, seeds, chunksize=4)


def one(seed: int) -> tuple[int, Judgement]:
    """Judge the world of a seed; where the judge itself crashes, that is the world's fault, and the others go on."""
    world = from_seed(seed)
    try:
        return seed, judge(world, table.recipes(world, seed), thorough=table.thorough(seed))
    except Exception as error:  # noqa: BLE001 - hours of judging are not lost to one world, and it counts as a crash
        return seed, Judgement(world, faults=[Fault("crash", "judge", "", f"{type(error).__name__}: {error}")])


def quick(seed: int) -> tuple[int, Judgement]:
    """Judge the world of a seed with fewer steps, by the closed forms and one search."""
    world = from_seed(seed)
    return seed, judge(world, (*table.CLOSED, table.SEARCHES[seed % len(table.SEARCHES)]), planner=table.QUICK)


def grave(judged: Sequence[tuple[int, Judgement]]) -> str:
    """What must never be, in words, a line a fault; empty if all is well."""
    return "\n".join(
        f"seed {seed}: {fault.kind} by {fault.attack} as {fault.threat}: {fault.words}"
        for seed, judgement in judged
        for fault in judgement.of(*GRAVE)
    )
