#!/usr/bin/env bash
# flwr 1.41.0: the fixed point of SecAgg+ is computed in the type of the client's array. At the usual settings (clipping
# range 8, target range 2^22) the largest number on the way is four million, beyond what float16 holds: of a model in half
# precision every entry becomes the same integer, and so does the sum. Nothing is raised; numpy warns at the client.
# What works: turn the arrays into float32 before they reach the modifier.
#
# Seen: "float32: [-1.0, 0.0, 0.5, 1.0]", "float16: one number, -8200.0".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet numpy==2.4.6 flwr==1.41.0
FLWR_TELEMETRY_ENABLED=0 "$folder/env/bin/python" - <<'PYTHON'
import inspect
import warnings

import flwr
import numpy as np
from flwr.common.secure_aggregation.quantization import dequantize, quantize
from flwr.server.workflow import SecAggPlusWorkflow

usual = {name: p.default for name, p in inspect.signature(SecAggPlusWorkflow).parameters.items()}
clip, target = usual["clipping_range"], usual["quantization_range"]
print("flwr", flwr.__version__, "clipping range", clip, "target range", target)
values = np.array([-1.0, 0.0, 0.5, 1.0])
back = {}
for kind in (np.float32, np.float16):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (back[kind],) = dequantize(quantize([values.astype(kind)], clip, target), clip, target)
    names = sorted({warning.category.__name__ for warning in caught})
    print(f"{kind.__name__}: {back[kind].round(3).tolist()}, warnings {names}")
assert np.allclose(back[np.float32], values, atol=1e-4)
assert len(set(back[np.float16])) == 1, "halves keep their values now"
PYTHON
