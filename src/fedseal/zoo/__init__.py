"""Reference models and bundled sample pictures."""

from fedseal.zoo.models import MODELS, build, convnet, lenet, mlp, resnet, vit
from fedseal.zoo.pictures import fashion_mnist, gallery, photos

__all__ = ["MODELS", "build", "convnet", "fashion_mnist", "gallery", "lenet", "mlp", "photos", "resnet", "vit"]
