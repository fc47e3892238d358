"""The name under which parties know the client of the masking protocol, which can be put aside between two phases."""

from fedseal.secagg.masking import Client as MaskingClient

__all__ = ["MaskingClient"]
