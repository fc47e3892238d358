"""A federation on several hosts: Flower carries the messages, over TLS, between nodes that are known by their keys.

`write` makes a folder for each party; `Deployment` is the engine of the model owner, and `take_part` what a data owner
or an aggregator runs. Nobody executes what comes over the network: Flower would run the app that its server hands out,
and here every party answers with the code and the configuration that it has itself.
"""

from __future__ import annotations

from fedseal.federation.deployment.engine import Deployment
from fedseal.federation.deployment.folder import Place, numbers, place, write
from fedseal.federation.deployment.node import take_part

__all__ = ["Deployment", "Place", "numbers", "place", "take_part", "write"]
