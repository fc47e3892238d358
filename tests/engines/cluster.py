"""Two Ray nodes on loopback: prints their address; a line ends the second at once, the end of input both."""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # loopback only

from ray.cluster_utils import Cluster


def main() -> None:
    cluster: Any = Cluster()
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster.add_node(**node)
    second = cluster.add_node(**node)
    print("address", cluster.address, flush=True)  # noqa: T201 - read by the test
    for _ in sys.stdin:
        cluster.remove_node(second, allow_graceful=False)
    cluster.shutdown()


if __name__ == "__main__":
    main()
