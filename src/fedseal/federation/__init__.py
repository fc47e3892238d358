"""Federated training: a server's model, clients that answer it with updates, and their mean."""

from fedseal.federation.local import mean, split, train

__all__ = ["mean", "split", "train"]
