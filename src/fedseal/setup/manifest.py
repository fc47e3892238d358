"""The training request, kept beside a recording, so that an audit can rebuild the same data and model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import model_validator
from torch import nn

from fedseal.errors import BadConfig
from fedseal.federation.federation import Federation
from fedseal.federation.owners import DataOwner, Local
from fedseal.federation.protocol.client import draw_seed
from fedseal.files import make_folder, write_whole
from fedseal.json_file import JsonFile, no_more_than, read_model
from fedseal.setup.data.images import BUNDLED
from fedseal.setup.factory import build_object
from fedseal.setup.federation import FederationSpec, OwnersData
from fedseal.types import Batch, Modality

FILE = "asked.json"


class Manifest(JsonFile):
    """What a recording was trained by.

    Args:
        plan: the options of `fedseal train`.
        digest: of the owners' examples.
    """

    plan: Annotated[FederationSpec, no_more_than(FederationSpec)]
    digest: str

    @model_validator(mode="before")
    @classmethod
    def _nested(cls, content: Any) -> Any:
        """Files of 0.2.0 and before have the options beside the digest."""
        if not isinstance(content, dict) or "plan" in content:
            return content
        return {"plan": {k: v for k, v in content.items() if k != "digest"}, "digest": content.get("digest")}


def keep(folder: Path, plan: FederationSpec, found: OwnersData) -> None:
    """Write a plan beside a record, with what tells these examples from others.

    Raises:
        StorageFailure: it cannot be written.
    """
    held = None if plan.validation is None else _lasting(plan.validation)
    lasting: dict[str, Any] = {"data": tuple(_lasting(name) for name in plan.data), "validation": held}
    make_folder(folder)
    write_whole(folder / FILE, Manifest(plan=replace(plan, **lasting), digest=found.digest).text().encode())


@dataclass(frozen=True, eq=False)
class Known:
    """What is behind a record: the model's architecture, and every owner's examples."""

    model: nn.Module
    owners: tuple[DataOwner, ...]
    seed: int | None
    modality: Modality | None = None

    def truth(self, round: int, owner: int) -> Batch:
        """The examples behind an owner's update of a round, drawn as the owner drew them.

        Raises:
            BadConfig: there is no such owner, or it drew from randomness of its own.
        """
        if owner >= len(self.owners):
            raise BadConfig(
                f"the record is of an owner {owner}, and there are {len(self.owners)}", "name the right federation"
            )
        data, rule = self.owners[owner].build_data(), self.owners[owner].model_fn
        if not isinstance(rule, Local) or rule.draw is None or rule.draw >= len(data):
            return data
        if self.seed is None:
            raise BadConfig("the owners drew examples without a seed", "train with a seed, or on all examples")
        return rule.drawn(data, torch.Generator().manual_seed(draw_seed(self.seed, round, owner)))


def known_federation(folder: Path, federation: str | None) -> Known | None:
    """What "package.module:function" says, which returns the `Federation`, or what `fedseal train` left in the folder.

    Raises:
        StorageFailure: what was left there is damaged.
        BadConfig: the data has changed since.
    """
    if federation is not None:
        built = build_object(federation, Federation)
        return Known(built.model_owner.model, tuple(built.data_owners), built.seed)
    if not (folder / FILE).is_file():
        return None
    fact = f"'{folder / FILE}' is not as fedseal wrote it"
    kept = read_model(folder / FILE, Manifest, fact, "train and record anew")
    plan, found = kept.plan, kept.plan.read()
    if found.digest != kept.digest:
        raise BadConfig(
            f"'{', '.join(plan.data)}' is not what was trained on", "put the same data back, or train and record anew"
        )
    rebuilt = plan.federation(found)
    return Known(rebuilt.model_owner.model, tuple(rebuilt.data_owners), rebuilt.seed, found.modality)


def _lasting(name: str) -> str:
    """A path that is good from other folders too."""
    return str(Path(name).resolve()) if Path(name).exists() and name not in BUNDLED else name
