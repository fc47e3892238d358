"""The table of worlds: how many of which kinds, and what was found in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.measure import share
from benchmarks.worlds.generate import World
from benchmarks.worlds.judgement import READ, SERVER, Fault, Judgement, Kind, Read
from benchmarks.worlds.table import CLOSED, PLANNER, ROWS, SEARCHES

Numbered = tuple[int, Judgement]


@dataclass
class Count:
    """What was counted in worlds of one kind."""

    worlds: int = 0
    certain: int = 0
    false: int = 0
    proved: int = 0
    readable: int = 0
    thorough: int = 0
    beaten: int = 0
    faults: Counter[Kind] = field(default_factory=Counter)

    def add(self, judged: Judgement) -> None:
        """Count a world."""
        self.worlds += 1
        self.thorough += judged.thorough
        self.beaten += bool(judged.of("beaten")) and judged.thorough
        self.false += len(judged.of("false certificate"))
        self.certain += sum(sum(read.certain) for read in judged.reads) + len(judged.of("false certificate"))
        self.faults.update(fault.kind for fault in judged.faults)
        for read in judged.reads:
            self.proved += sum(c for _, c in readable(judged, read))
            self.readable += len(readable(judged, read))

    def __str__(self) -> str:
        said = [
            f"{self.worlds} worlds",
            f"{self.false} of {self.certain} certificates false",
            f"{self.proved} of {self.readable} determined and read called certain",
            f"auto beaten in {self.beaten} of {self.thorough}",
        ]
        crashed = self.faults["crash"] + self.faults["not finite"]
        return "; ".join([*said, *([f"{crashed} crashes or results not finite"] if crashed else [])])


def readable(judged: Judgement, read: Read) -> list[tuple[int, bool]]:
    """The examples that are determined and read to 40 dB by an adversary who can replay, and whether each is certain.

    Who has no weights or no training cannot replay; where the client drew in secret, nobody can.
    """
    if read.threat != SERVER.name or judged.secret:
        return []
    return [
        (number, read.certain[number])
        for number, is_determined in enumerate(judged.determined)
        if is_determined and read.errors[number] <= READ
    ]


def figures(judged: Sequence[Numbered]) -> dict[str, object]:
    """All rows of the table, the bars first."""
    kept = [one for _, one in judged if not one.refused]
    total = Count()
    for one in kept:
        total.add(one)
    found: dict[str, object] = {
        "worlds": f"{len(judged)}, of which {len(judged) - len(kept)} give no update (zero, or not finite)",
        "examples": sum(len(one.determined) for one in kept),
        "examples that the oracle calls determined": share(
            sum(sum(one.determined) for one in kept), sum(len(one.determined) for one in kept)
        ),
        "attacks judged": sum(len(one.reads) for one in kept),
        "false certificates, of all examples called certain": share(total.false, max(total.certain, 1)),
        "worlds with a false certificate": _worlds(kept, "false certificate"),
        "worlds with certified labels that are wrong": _worlds(kept, "false labels"),
        "worlds with a certain example under another's label": _worlds(kept, "wrong label"),
        "worlds in which an attack crashed": _worlds(kept, "crash"),
        "worlds with a result that is not finite": _worlds(kept, "not finite"),
        "worlds that the planner refuses": _worlds(kept, "refused"),
        "worlds in which a server reads less than an eavesdropper": _worlds(kept, "below"),
    }
    found |= _said(kept, "auto", lambda read: read.attack == "auto")
    found["of the determined examples that any attack read to 40 dB, as a server: called certain by one"] = _by_any(
        kept
    )
    found |= _said(kept, "all attacks", lambda read: True)
    for name in ["auto", *(text.partition(":")[0] for text in (*CLOSED, *SEARCHES, ROWS))]:
        found |= _said(kept, name, lambda read, name=name: read.attack == name) if name != "auto" else {}  # type: ignore[misc]
    for data in ("picture", "table", "signal"):
        those = [one for one in kept if one.thorough and one.world.tagged("data") == data]
        found[f"auto beaten by more than 3 dB, {data}s"] = _worlds(those, "beaten")
    found["auto"] = f"{PLANNER}; recipes {', '.join((*CLOSED, *SEARCHES, ROWS))}"
    for tag in sorted({tag for one in kept for tag in one.world.tags}):
        count = Count()
        for one in kept:
            if tag in one.world.tags:
                count.add(one)
        found[tag] = str(count)
    return found


def _worlds(kept: Sequence[Judgement], kind: Kind) -> str:
    return share(sum(bool(one.of(kind)) for one in kept), max(len(kept), 1))


def _by_any(kept: Sequence[Judgement]) -> str:
    """Examples, each counted once however many attacks read it."""
    count = certain = 0
    for one in kept:
        read: dict[int, bool] = {}
        for mine in one.reads:
            for number, proved in readable(one, mine):
                read[number] = read.get(number, False) or proved
        count, certain = count + len(read), certain + sum(read.values())
    return share(certain, count) if count else "none was read"


def _said(kept: Sequence[Judgement], name: str, mine: Callable[[Read], bool]) -> dict[str, object]:
    pairs = [pair for one in kept for read in one.reads if mine(read) for pair in readable(one, read)]
    if not pairs:
        return {}
    label = f"of the determined examples that {name} read to 40 dB, as a server: called certain"
    return {label: share(sum(certain for _, certain in pairs), len(pairs))}


def script(world: World, attack: str, threat: str) -> str:
    """A whole program that makes a world, attacks it and says what came out.

    Args:
        attack: a specification, or "labels".
        threat: the threat model's name.
    """
    ending = [
        "",
        "from fedseal.attack.proof.certificate import certify",
        "",
        f"drawn = torch.Generator().manual_seed({world.seed})",
        "update = fs.local_update(model, batch, training=training, generator=drawn)",
        f"observation = fs.ThreatModel.{threat}().observe(model, update, modality=modality)",
        "generator = torch.Generator().manual_seed(0)",
    ]
    if attack == "labels":
        ending += ["found = fs.attack.labels.best(observation, generator=generator)"]
        ending += ["print(found, batch.labels)"]
        return "\n".join((world.source, *ending)) + "\n"
    ending += [
        f'found = certify(observation, fs.attack.parse("{attack}")(observation, generator=generator))',
        "print(found.outcome, found.certificate, sep=chr(10))",
        "print('labels', found.labels, 'truth', batch.labels)",
        "if found.inputs is not None:",
        "    distances = (found.inputs.double().flatten(1)[:, None] - batch.inputs.double().flatten(1)).square()",
        "    print('rms of each result (rows) to each truth', distances.mean(2).sqrt(), sep=chr(10))",
    ]
    return "\n".join((world.source, *ending)) + "\n"


def specification(name: str) -> str:
    """The specification under which an attack judged, from its name."""
    known = {text.partition(":")[0]: text for text in (PLANNER, *CLOSED, *SEARCHES, ROWS)}
    return known.get(name, name)


def failures(judged: Sequence[Numbered], kinds: Iterable[Kind], shown: int = 3) -> str:
    """Markdown: under every kind of fault the seeds, and the scripts of the smallest worlds that show it."""
    parts = []
    for kind in kinds:
        rows: list[tuple[int, Judgement, Fault]] = [
            (number, one, fault) for number, one in judged for fault in one.of(kind)
        ]
        if not rows:
            continue
        seeds = sorted({number for number, _, _ in rows})
        parts.append(f"## {kind}: {len(seeds)} worlds\nseeds: {' '.join(map(str, seeds[:60]))}")
        groups = Counter((fault.attack, fault.threat, _gist(fault.words)) for _, _, fault in rows)
        parts.append("\n".join(f"- {n}x {a}, {t}: {gist}" for (a, t, gist), n in groups.most_common(25)))
        rows.sort(key=lambda row: len(row[1].world.source))
        for attack in sorted({fault.attack for _, _, fault in rows}):
            said: set[str] = set()
            mine = [row for row in rows if row[2].attack == attack]
            for number, one, fault in mine:
                if len(said) < shown and _gist(fault.words) not in said:
                    said.add(_gist(fault.words))
                    text = script(one.world, specification(attack), fault.threat)
                    parts.append(f"### {kind}, {attack}, seed {number}\n{fault.words}\n```python\n{text}```")
    return "\n\n".join(parts) + "\n"


def _gist(words: str) -> str:
    """The words without their figures, by which faults are grouped."""
    return "".join("#" if letter.isdigit() else letter for letter in words).replace("##", "#").replace("##", "#")[:160]
