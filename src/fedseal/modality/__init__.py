"""What "an input" is; one file a modality."""

from fedseal.modality.image import Image

__all__ = ["Image"]
