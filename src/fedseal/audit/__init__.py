"""Audits: attacks x defenses x threat models on a case, recorded as they go, resumable at any moment."""

from fedseal.audit.case import Case
from fedseal.audit.config import Setup, load_config
from fedseal.audit.executor import Engine, InProcess, Processes
from fedseal.audit.factory import build_object, load_object
from fedseal.audit.record import Cell, CellKey, Record
from fedseal.audit.run import CellProgress, run
from fedseal.audit.store import Pictures, load, pictures
from fedseal.audit.summary import Change, Group, compare, summarize

__all__ = [
    "Case",
    "Cell",
    "CellKey",
    "CellProgress",
    "Change",
    "Engine",
    "Group",
    "InProcess",
    "Pictures",
    "Processes",
    "Record",
    "Setup",
    "build_object",
    "compare",
    "load",
    "load_config",
    "load_object",
    "pictures",
    "run",
    "summarize",
]
