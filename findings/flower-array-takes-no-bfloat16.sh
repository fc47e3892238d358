#!/usr/bin/env bash
# flwr 1.41.0 beside torch 2.13.0: an Array, and so an ArrayRecord of a state dict, is documented as made from any torch
# tensor, but goes through numpy, which has no bfloat16. A model in the format that most language models come in cannot
# be put into a message; the error is numpy's, names no tensor, and comes when the first client has been asked already.
# What works: the same bits as integers, under the format's name, which Array(dtype=..., shape=..., stype=..., data=...)
# takes; the reader has to turn them back itself, since Array.numpy() gives the integers.
#
# Seen: "float32: 2 arrays", "bfloat16: TypeError: Got unsupported ScalarType BFloat16", "bits: int16 read back, [1, 2]".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 flwr==1.41.0
FLWR_TELEMETRY_ENABLED=0 "$folder/env/bin/python" - <<'PYTHON'
import flwr
import torch
from flwr.app import Array, ArrayRecord

print("flwr", flwr.__version__, "torch", torch.__version__)
model = torch.nn.Linear(2, 2)
print(f"float32: {len(ArrayRecord(model.state_dict()))} arrays")
try:
    ArrayRecord(model.bfloat16().state_dict())
    seen = "made"
except TypeError as error:
    seen = f"TypeError: {error}"
print(f"bfloat16: {seen}")
tensor = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
bits = Array(tensor.view(torch.int16).numpy())
array = Array(dtype="bfloat16", shape=bits.shape, stype=bits.stype, data=bits.data)
back = torch.from_numpy(array.numpy()).view(torch.bfloat16)
print(f"bits: {array.numpy().dtype} read back, {back.int().tolist()}")
assert "BFloat16" in seen, "Flower takes bfloat16 now"
assert array.numpy().dtype == "int16", "Flower turns the bits back now"
PYTHON
