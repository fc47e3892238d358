"""Federated training: a server's model, clients that answer it with updates, and their mean.

`Federation` adds updates up so that nobody can read one; it needs the extra `fedseal[federation]`, and is loaded when
it is first used. `train` is the plain reference.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from fedseal.federation.local import mean, split, train

if TYPE_CHECKING:
    from fedseal.federation.federation import Federation, Trained
    from fedseal.federation.hook import recorded
    from fedseal.federation.owners import DataOwner, ModelOwner, gradient_step, local_steps, reptile
    from fedseal.federation.report import RoundReport
    from fedseal.federation.secure import Secure
    from fedseal.federation.view import View

__all__ = [
    "DataOwner",
    "Federation",
    "ModelOwner",
    "RoundReport",
    "Secure",
    "Trained",
    "View",
    "gradient_step",
    "local_steps",
    "mean",
    "recorded",
    "reptile",
    "split",
    "train",
]

_HOMES = {
    "DataOwner": "owners",
    "Federation": "federation",
    "ModelOwner": "owners",
    "RoundReport": "report",
    "Secure": "secure",
    "Trained": "federation",
    "View": "view",
    "gradient_step": "owners",
    "local_steps": "owners",
    "recorded": "hook",
    "reptile": "owners",
}


def __getattr__(name: str) -> object:
    """Load a name when it is first used: secure sums need packages that the rest does not."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"fedseal.federation.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fedseal.federation' has no attribute '{name}'")
