#!/usr/bin/env bash
# torch 2.13.0 (CPU): a fully connected layer on the meta device, which computes nothing but shapes, loads torch's
# compiler (torch._dynamo and sympy with it). `import torch` alone does not, nor does the same layer on the CPU.
# A tool that asks a model for the shape of its scores on the meta device pays for that at the start of every process,
# with CPU time of the order of `import torch` itself, as the script prints.
#
# Seen: "after import: False", "after linear on the cpu: False", "after linear on meta: True".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/env/bin/python" - <<'PYTHON'
import sys
import time

begun = time.process_time()
import torch

print(f"import torch: {time.process_time() - begun:.1f} s of CPU")


def loaded():
    return "torch._dynamo" in sys.modules

seen = {"after import": loaded()}
for device in ("cpu", "meta"):
    layer, inputs = torch.nn.Linear(3, 2, device=device), torch.ones(1, 3, device=device)
    begun = time.process_time()
    with torch.no_grad():
        assert layer(inputs).shape == (1, 2)
    print(f"linear on {device}: {time.process_time() - begun:.1f} s of CPU")
    seen[f"after linear on {'the cpu' if device == 'cpu' else device}"] = loaded()
print("torch", torch.__version__)
for when, what in seen.items():
    print(f"{when}: {what}")
assert list(seen.values()) == [False, False, True], "torch behaves otherwise now"
PYTHON
