#!/usr/bin/env bash
# torch 2.13.0 (CPU): `Tensor.contiguous()` gives a tensor whose strides need not be those of a new tensor of its shape.
# Strides along dimensions of size 1 are left as they are, so that a grey picture, or a batch of one, that came in the
# order height, width, channel is contiguous and still says of itself that it lies in channels-last order. Kernels are
# chosen by that, and with them how sums are rounded. `clone(memory_format=torch.contiguous_format)` sets all strides.
#
# Seen: strides of a (4, 1, 8, 8) picture made from (4, 8, 8, 1): (64, 1, 8, 1) before and after `contiguous()`, though a
# new tensor of that shape has (64, 64, 8, 1); it is contiguous in both memory formats.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/env/bin/python" - <<'PYTHON'
import torch

pictures = torch.arange(256.0).view(4, 8, 8, 1).permute(0, 3, 1, 2)
moved = pictures.contiguous()
usual = torch.empty(4, 1, 8, 8).stride()
cloned = pictures.clone(memory_format=torch.contiguous_format).stride()
print("torch", torch.__version__)
print("strides:", pictures.stride(), "after contiguous():", moved.stride(), "of a new tensor:", usual, "cloned:", cloned)
print("contiguous:", moved.is_contiguous(), "in channels-last order:", moved.is_contiguous(memory_format=torch.channels_last))
assert moved.is_contiguous() and moved.is_contiguous(memory_format=torch.channels_last)
assert moved.stride() == (64, 1, 8, 1) and usual == cloned == (64, 64, 8, 1), "torch behaves otherwise now"
PYTHON
