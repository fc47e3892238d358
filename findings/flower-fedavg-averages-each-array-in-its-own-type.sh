#!/usr/bin/env bash
# flwr 1.41.0 beside torch 2.13.0: FedAvg adds up each array times its share of the examples in the type that numpy makes
# of the two, whatever the array is. A counter, such as BatchNorm's number of batches, on which all clients agree, comes
# back as a float slightly below it, and torch loads that into its integer buffer without a word, rounded down. An array
# in half precision is added up in half precision: the more clients, the further the mean of equal numbers is from them.
# What works: average counters apart (or take anybody's), and send halves as float32.
#
# Seen: "6 clients, counter 10: float64 9.999999999999998, loaded as 9", "1000 clients, half 1.0: float16 0.978515625".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 flwr==1.41.0
FLWR_TELEMETRY_ENABLED=0 "$folder/env/bin/python" - <<'PYTHON'
import flwr
import numpy as np
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords  # what FedAvg calls

print("flwr", flwr.__version__, "torch", torch.__version__)


def mean(array, clients):
    record = {"arrays": ArrayRecord({"it": Array(array)}), "metrics": MetricRecord({"num-examples": 1})}
    return aggregate_arrayrecords([RecordDict(dict(record)) for _ in range(clients)], "num-examples")["it"].numpy()


counter = mean(np.array(10, np.int64), 6)
norm = torch.nn.BatchNorm1d(2)
norm.load_state_dict({**norm.state_dict(), "num_batches_tracked": torch.tensor(counter)})
print(f"6 clients, counter 10: {counter.dtype} {float(counter)!r}, loaded as {int(norm.num_batches_tracked)}")
half = mean(np.array([1.0], np.float16), 1000)
print(f"1000 clients, half 1.0: {half.dtype} {half[0]}")
assert int(norm.num_batches_tracked) == 9, "the counter comes back whole now"
assert half.dtype == np.float16 and half[0] < 0.99, "halves are added up in a wider type now"
PYTHON
