"""Which attacks judge a world: the planner and every recipe that reads pictures or rows, with few steps each."""

from __future__ import annotations

from benchmarks.worlds.generate import World

PLANNER = "auto:steps=60"
CLOSED = ("linear", "spear", "layerwise", "separation:steps=10", "cocktail_party:steps=30")
SEARCHES = (
    "dlg:steps=15",
    "idlg:steps=15",
    "inverting_gradients:steps=40",
    "bayes:steps=1",
    "dlg_batch:steps=12",
    "gradinversion:steps=10,seeds=2",
    "geng:steps=30",
    "dimitrov:steps=20",
    "coarse:steps=20",
    "sme:steps=30",
)
ROWS = "tableak:steps=15"
TEXT = ("dager", "tokens", "dlg_text", "tag", "lamp", "mixture")  # not judged: worlds hold no text
EVERY = 5  # worlds, of which one is judged by all recipes

QUICK = "auto:steps=20"  # the planner where 300 worlds must not take long


def recipes(world: World, number: int) -> tuple[str, ...]:
    """The recipes that judge a world: all in every fifth, else the closed forms and one search, by turns.

    Args:
        number: of the world, which decides whose turn it is.
    """
    searches = SEARCHES + ((ROWS,) if world.tagged("data") == "table" else ())
    return CLOSED + (searches if thorough(number) else (searches[number % len(searches)],))


def thorough(number: int) -> bool:
    """Whether the world of that number is judged by all recipes."""
    return number % EVERY == 0
