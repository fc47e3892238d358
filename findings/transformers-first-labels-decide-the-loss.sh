#!/usr/bin/env bash
# transformers 5.23.0 beside torch 2.13.0: which loss a model for sequence classification computes is decided by the type of
# the first labels that it ever sees, and is then written into its configuration, which `save_pretrained` keeps. Two
# clients that load one model and hand in the same one-hot labels get different losses, or an error, depending on what
# each model object saw before: whole numbers first, and one-hot rows are no longer taken; one-hot rows first, and the
# loss is a sigmoid for each class, not cross-entropy of several.
# What works: set `problem_type` in the configuration before anything is trained or attacked.
#
# Seen: "whole numbers first: single_label_classification", "then one-hot rows: ValueError", "one-hot rows first:
# multi_label_classification, BinaryCrossEntropyWithLogitsBackward0", "saved: single_label_classification".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0
HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 "$folder/env/bin/python" - "$folder/model" <<'PYTHON'
import sys

import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification

print("transformers", transformers.__version__, "torch", torch.__version__)
small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def fresh():
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**small, num_labels=3)).eval()


tokens, whole, rows = torch.tensor([[1, 2, 3]]), torch.tensor([1]), torch.tensor([[0.0, 1.0, 0.0]])
one, other = fresh(), fresh()
one(tokens, labels=whole)
print("whole numbers first:", one.config.problem_type)
try:
    one(tokens, labels=rows)
    then = "taken"
except ValueError as error:
    then = type(error).__name__
print("then one-hot rows:", then)
loss = other(tokens, labels=rows).loss
print(f"one-hot rows first: {other.config.problem_type}, {loss.grad_fn.name()}")
one.save_pretrained(sys.argv[1])
saved = BertConfig.from_pretrained(sys.argv[1]).problem_type
print("saved:", saved)
assert then == "ValueError", "one-hot rows are taken after whole numbers now"
assert other.config.problem_type == "multi_label_classification", "one-hot rows are one label of several now"
assert saved == "single_label_classification", "a batch leaves the configuration alone now"
PYTHON
