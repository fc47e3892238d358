"""The record: what an audit was asked, what it resolved that to, on which machine, and what every cell gave.

A run folder holds `record.json` (the header, written first), and for every finished cell `cells/ID.json` with its
numbers, its sentences or its rows. Pictures lie beside it in `cells/ID.safetensors`: `truth` and `reconstruction`,
decoded `(N, C, H, W)` in [0, 1], and `frames` `(F, N, C, H, W)` in 0..255, the iterations. Of a cell that crashed
`cells/ID.traceback.txt` says where. A cell exists once its JSON does, which is moved there last. A reconstruction, its
labels, its certificate and its frames stand in the order of the true examples that they were matched to.
Numbers that are not finite stand in the JSON as "Infinity" and "NaN".
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedseal.metric.scores import LabelScore, Scores
from fedseal.vocabulary import RouteNote

VERSION: Final = 5
# 1 is 2 without what is said of labels in whatever order; 2 is 3 with pictures only, whose three scores had fields;
# 3 is 4 with one batch size and the case's own training only; 4 is 5 with the attack's own word for its certificate,
# without crashes, and with losses told apart by name only
READABLE = (1, 2, 3, 4, 5)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class CellKey(_Frozen):
    """What makes a cell different from all others of its run."""

    attack: str = Field(description="the attack as specified, such as 'dlg:steps=100'")
    defense: str = Field(description="the defense as specified, such as 'prune:0.2'")
    threat: str = Field(description="the name of the threat model")
    first: int = Field(description="index of the first example of the attacked batch")
    batch_size: int = Field(description="number of examples of the attacked batch")
    seed: int
    epochs: int | None = Field(
        default=None, description="of local training; 0 for one gradient without a step, None for the case's own"
    )

    @property
    def id(self) -> str:
        """A short name for files, the same for equal keys, and for those of earlier versions of the record."""
        return hashlib.sha256(self.model_dump_json(exclude_defaults=True).encode()).hexdigest()[:16]


class Sentence(_Frozen):
    """A sentence, true or reconstructed.

    Args:
        tokens: by position, padding at the end left out; an empty string where an attack found none.
        pieces: the same for readers, such as "ü" for the two bytes "Ã" and "¼": a character whose bytes lie in several
            tokens stands with the first of them, and the others are empty. None where the tokens say it themselves.
    """

    text: str
    tokens: tuple[str, ...]
    pieces: tuple[str, ...] | None = None
    confidence: tuple[float, ...] | None = Field(default=None, description="the attack's own, 0 to 1, of each token")


class Texts(_Frozen):
    """The sentences of a cell, in the order of the true ones."""

    kind: Literal["text"] = "text"
    special: tuple[str, ...] = Field(description="the tokens among them that stand for no text, such as '[CLS]'")
    truth: tuple[Sentence, ...]
    found: tuple[Sentence | None, ...] | None = Field(
        description="None for an example that nothing was matched to, and as a whole if the attack gave no inputs"
    )


class Row(_Frozen):
    """A row of a table, true or reconstructed, by the columns' names."""

    values: dict[str, str | int | float | bool | None]
    right: dict[str, bool] | None = Field(
        default=None, description="of a reconstruction: whether the cell agrees with the true one, within its tolerance"
    )
    confidence: dict[str, float] | None = Field(default=None, description="the attack's own, 0 to 1, of each cell")


class Rows(_Frozen):
    """The rows of a cell, in the order of the true ones."""

    kind: Literal["table"] = "table"
    truth: tuple[Row, ...]
    found: tuple[Row | None, ...] | None = Field(
        description="None for an example that nothing was matched to, and as a whole if the attack gave no inputs"
    )


Content = Annotated[Texts | Rows, Field(discriminator="kind")]


class CellCertificate(_Frozen):
    """What the runner proved of a reconstruction, in the order of the true examples; see `types.Certificate`."""

    kind: Literal["replay", "layer"]
    residual: float = Field(description="relative distance of what the reconstruction gives from the observed update")
    tolerance: float = Field(description="the residual up to which the reconstruction explains the update")
    sensitivity: tuple[float | None, ...] = Field(
        description="the smallest relative change of the update that a visible change of the example causes; None for "
        "an example that nothing was matched to, or where the update is not explained in the first place"
    )
    certain: tuple[bool, ...] = Field(description="False too for an example that nothing was matched to")
    assumption: str
    note: str = ""


class Cell(_Frozen):
    """One attack on one update: how it ended and what it scored."""

    key: CellKey
    status: Literal["exact", "converged", "budget", "diverged", "not_applicable", "refused", "failed"] = Field(
        description="the outcome's status as the runner worked it out; 'refused' if the attack raised at the door, "
        "'failed' if attack, defense or score crashed, which says nothing of the data and is tried again"
    )
    route: str
    residual: float | None = Field(description="relative distance of the replayed update from the observed one")
    steps: int
    seconds: float = Field(description="of the attack, as the runner measured them")
    check_seconds: float | None = Field(
        default=None, description="of working out the certificate anew; None where nothing was, or before version 5"
    )
    note: str
    explanation: tuple[RouteNote, ...]
    certificate: CellCertificate | None = Field(
        default=None, description="None where nothing could be proved, and before version 5"
    )
    knows: tuple[str, ...] = Field(description="the facts that the threat model granted")
    true_labels: tuple[int, ...] | None = Field(description="class indices; None for soft labels, and for positions'")
    labels: tuple[int, ...] | None = Field(
        description="what the attack says the labels are, in the order of the true examples where inputs were matched"
    )
    true_targets: tuple[tuple[float, ...], ...] | None = Field(
        default=None, description="one row of findings or numbers for each example, where labels are no classes"
    )
    targets: tuple[tuple[float, ...], ...] | None = Field(
        default=None, description="what the attack says they are, in the order of the true examples where matched"
    )
    scores: Scores | None = Field(description="None if the attack gave no inputs")
    label_score: LabelScore | None = Field(
        default=None,
        description="true labels that the attack named, in whatever order; None if it gave none, or in version 1",
    )
    frame_steps: tuple[int, ...] = Field(description="the optimization step of every stored frame")
    content: Content | None = Field(
        default=None, description="sentences or rows; None for pictures, which have a file of their own"
    )

    @property
    def certain(self) -> tuple[bool, ...]:
        """Of which true examples the runner is certain; of none in a record before version 5, which checked less."""
        return (False,) * self.key.batch_size if self.certificate is None else self.certificate.certain

    @property
    def contradiction(self) -> str:
        """What of the cell does not fit the rest of it, as a clause; empty where all does."""
        count, targets = self.key.batch_size, {len(row) for row in (*(self.targets or ()), *(self.true_targets or ()))}
        if self.scores is not None and [sample.index for sample in self.scores.samples] != list(range(count)):
            return f"scores are not of {count} examples, one after the other"
        if self.scores is not None and not all(sample.scores for sample in self.scores.samples):
            return "an example has no score"
        if self.certificate is not None and len(self.certificate.certain) != count:
            return f"a proof of {len(self.certificate.certain)} examples, and the batch has {count}"
        return "rows of targets of unlike length" if len(targets) > 1 else ""

    @model_validator(mode="before")
    @classmethod
    def _of_versions_before(cls, content: Any) -> Any:
        """Cells of versions 1 and 2, whose samples had a field for each of the three scores of a picture."""
        scores = content.get("scores") if isinstance(content, dict) else None
        samples = scores.get("samples") if isinstance(scores, dict) else None
        if not isinstance(samples, list | tuple) or not all(isinstance(sample, dict) for sample in samples):
            return content
        newer = [_with_named_scores(sample) for sample in samples]
        return {**content, "scores": {**scores, "samples": newer}}  # type: ignore[dict-item]


def _with_named_scores(sample: dict[str, Any]) -> dict[str, Any]:
    old = [sample[name] for name in _PICTURE_SCORES if name in sample]
    if "scores" in sample or len(old) < len(_PICTURE_SCORES):
        return sample
    return {**{k: v for k, v in sample.items() if k not in _PICTURE_SCORES}, "scores": old}


_PICTURE_SCORES = ("psnr", "ssim", "mse")


class Environment(_Frozen):
    """Where and with what the audit ran."""

    python: str
    platform: str
    packages: dict[str, str]
    git: str | None = Field(description="revision of the working folder, with '-dirty' if changed; None outside git")
    device: str
    threads: int


class Step(_Frozen):
    """One step of a defense, as its public description tells it; see `fedseal.mechanism`."""

    kind: str
    figures: dict[str, float] = Field(default_factory=dict)
    where: tuple[str, ...] = Field(default=(), description="parameters it touches; empty for all")


class Config(_Frozen):
    """What an audit was asked, or what that was resolved to."""

    case: str = Field(description="the case's name")
    model: str
    training: dict[str, object]
    modality: dict[str, object]
    attacks: tuple[str, ...]
    defenses: tuple[str, ...]
    threats: tuple[str, ...]
    samples: int = Field(description="number of batches attacked, of each size")
    batch_sizes: tuple[int, ...]
    epochs: tuple[int, ...] | None = Field(
        default=None, description="of local training, in place of the case's own; 0 for one gradient without a step"
    )
    lr: float | None = Field(default=None, description="of these epochs; None for the case's own")
    seeds: tuple[int, ...]
    cohort: int = Field(description="of how many clients an adversary that gets no single updates sees the mean")
    recipes: dict[str, str] = Field(description="what every attack's specification was resolved to")
    knows: dict[str, tuple[str, ...]] = Field(description="the facts that every threat model grants")
    public: dict[str, tuple[Step, ...]] | None = Field(
        default=None,
        description="the steps of every defense that attackers who know it know; None where the record does not say",
    )
    fingerprint: str = Field(
        description="hash of the case's model, weights and data, so that a resumed run attacks the same"
    )

    @property
    def batch_size(self) -> int:
        """The largest of the batch sizes."""
        return max(self.batch_sizes)

    @model_validator(mode="before")
    @classmethod
    def _of_versions_before(cls, content: Any) -> Any:
        """Versions 1 to 3 knew one batch size."""
        if not isinstance(content, dict) or "batch_size" not in content:
            return content
        return {"batch_sizes": (content["batch_size"],), **{k: v for k, v in content.items() if k != "batch_size"}}


class Kept(_Frozen):
    """Cells of which scores were not computed anew, and stayed as they were."""

    cells: int
    reason: str


class Rescoring(_Frozen):
    """Of a run whose scores were computed anew, without another attack; see `audit.rescore`."""

    created: str = Field(description="UTC, ISO 8601")
    environment: Environment = Field(description="where and with what; its packages say which fedseal's metrics")
    cells: int = Field(description="number of those whose scores are new")
    basis: str = Field(description="what of the reconstructions was there to score, as a sentence")
    kept: tuple[Kept, ...] = Field(description="what could not be scored again, and why")

    @property
    def summary(self) -> str:
        """Who scored what, as a sentence."""
        which = "1 cell" if self.cells == 1 else f"{self.cells} cells"
        version = self.environment.packages.get("fedseal", "")
        return f"The scores of {which} were computed anew by fedseal {version}, from {self.basis}"


class Header(_Frozen):
    """The content of `record.json`.

    A run that was scored anew keeps the version that it had: what was proved of its cells is as old as they are.
    """

    version: Literal[1, 2, 3, 4, 5] = VERSION
    created: str = Field(description="UTC, ISO 8601")
    given: dict[str, object] = Field(description="the arguments as given")
    config: Config = Field(description="the arguments as resolved")
    environment: Environment
    keys: tuple[CellKey, ...] = Field(description="all cells of the audit, in order")
    rescored: Rescoring | None = Field(
        default=None,
        exclude_if=lambda rescored: rescored is None,  # so that earlier readers take every other record as before
        description="None where the scores are those of the audit itself",
    )


class Record(_Frozen):
    """A run as it stands: the header and every finished cell, in the header's order."""

    header: Header
    cells: tuple[Cell, ...]
    folder: str = Field(description="where pictures are: FOLDER/cells/ID.safetensors")

    @property
    def complete(self) -> bool:
        """Whether every cell is there, and none of them crashed."""
        return len(self.cells) == len(self.header.keys) and not self.failed

    @property
    def failed(self) -> tuple[Cell, ...]:
        """The cells that crashed; the same audit, run again, tries them again."""
        return tuple(cell for cell in self.cells if cell.status == "failed")

    def to_json(self) -> str:
        """The whole record as one JSON document, without pictures."""
        return json.dumps({**json.loads(self.model_dump_json()), "complete": self.complete}, indent=2)
