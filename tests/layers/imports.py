"""Reads imports and forbidden calls off the syntax trees of a source tree; nothing is imported or run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

# What each part may import, besides itself: section 2 of the design. A higher part may import every lower one.
BOTTOM = {
    "errors", "mechanism", "files", "json_file", "intervals", "layout", "norm", "captured", "vocabulary", "named",
    "grammar",
}  # fmt: skip
TYPES = BOTTOM | {"types"}
CLIENT = TYPES | {"criterion", "client"}
THREAT = CLIENT | {"message", "threat"}
MODALITY = THREAT | {"modality"}
DUEL = {"attack", "defense", "metric", "federation", "zoo", "secagg"}
AUDIT = MODALITY | DUEL | {"audit"}
REPORT = AUDIT | {"report"}
SETUP = MODALITY | {"defense", "federation", "zoo", "audit"}
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "mechanism": set(),
    "files": {"errors"},
    "json_file": {"errors"},
    "intervals": set(),
    "layout": set(),
    "norm": set(),
    "vocabulary": set(),
    "named": set(),
    "grammar": {"errors"},
    "captured": {"errors", "layout", "mechanism"},
    "types": BOTTOM,
    "criterion": TYPES,
    "client": TYPES | {"criterion"},
    "message": TYPES,
    "threat": CLIENT | {"message"},
    "modality": THREAT,
    "attack": MODALITY,
    "defense": MODALITY,
    "metric": MODALITY,
    "zoo": MODALITY,
    "secagg": {"errors"},
    "federation": MODALITY | {"defense", "secagg"},
    "audit": MODALITY | DUEL,
    "report": AUDIT,
    "setup": SETUP,
    "nvflare": {"errors", "types", "federation", "setup"},
    "cli": REPORT | {"setup"},
    "__init__": REPORT | {"setup", "cli"},
}
READER = "captured.py"  # the one place where torch.load may stand, with weights_only, and what it raises be named
FOREIGN = {"torchvision", "pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "random"}
DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"}
FILLS = {"uniform_", "normal_", "random_", "bernoulli_", "exponential_", "cauchy_", "geometric_", "log_normal_"}


def violations(root: Path) -> list[str]:
    """Every import that is not drawn and every forbidden call under a package's folder, as "file:line: what"."""
    found = []
    for path in sorted(root.rglob("*.py")):
        tree = ast.parse(path.read_text(), str(path))
        where = path.relative_to(root)
        reader = str(where) == READER
        found += [
            f"{where}:{line}: {what}" for line, what in (*_arrows(root, path, tree), *_calls(tree, reader=reader))
        ]
    return found


def _arrows(root: Path, path: Path, tree: ast.AST) -> Iterator[tuple[int, str]]:
    parts = path.relative_to(root).with_suffix("").parts
    here = parts[0]
    if here not in ARROWS:
        yield 1, f"'{here}' is not in the design's layout"
        return
    for node in ast.walk(tree):
        for module in _imported(root, parts, node):
            top, *rest = module.split(".")
            if top in FOREIGN and not (str(path.relative_to(root)) == READER and _names_its_error(node)):
                yield node.lineno, f"imports {top}"  # type: ignore[attr-defined]
            if top != root.name:
                continue
            part = rest[0] if rest else "__init__"
            if part != here and part not in ARROWS[here]:
                yield node.lineno, f"{here} -> {part}"  # type: ignore[attr-defined]


def _imported(root: Path, parts: tuple[str, ...], node: ast.AST) -> list[str]:
    """Absolute names of the modules that a node imports; `from fedseal import x` names part x, if there is one."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    module = node.module or ""
    if node.level:
        base = [root.name, *parts][: -node.level]
        module = ".".join([*base, *([module] if module else [])])
    if module != root.name:
        return [module]
    return [f"{module}.{alias.name}" if alias.name in ARROWS else module for alias in node.names]


def _names_its_error(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and [alias.name for alias in node.names] == ["UnpicklingError"]


def _calls(tree: ast.AST, forked: bool = False, reader: bool = False) -> Iterator[tuple[int, str]]:
    """Unpickling, and randomness that no generator argument controls; seeding is allowed inside `fork_rng`."""
    for node in ast.iter_child_nodes(tree):
        inside = forked or (isinstance(node, ast.With) and any("fork_rng" in ast.unparse(i) for i in node.items))
        yield from _calls(node, inside, reader)
        if isinstance(node, ast.ImportFrom) and node.module in ("torch", "numpy"):
            yield from (
                (node.lineno, f"imports {a.name} out of its module") for a in node.names if a.name in DRAWS | {"load"}
            )
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("np.random", "numpy.random"):
            yield node.lineno, "numpy's global randomness"
        if not isinstance(node, ast.Call):
            continue
        name, last = ast.unparse(node.func), ast.unparse(node.func).split(".")[-1]
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        safe = reader and keywords.get("weights_only") == "True"
        if (name == "torch.load" and not safe) or (
            name in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False"
        ):
            yield node.lineno, f"{name} unpickles"
        if (name in {f"torch.{draw}" for draw in DRAWS} or last in FILLS) and "generator" not in keywords:
            yield node.lineno, f"{last} without a generator"
        if name in ("torch.manual_seed", "torch.seed", "torch.default_generator.manual_seed") and not forked:
            yield node.lineno, f"{name} outside fork_rng"
