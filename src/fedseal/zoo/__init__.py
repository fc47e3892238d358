"""Reference models, bundled sample pictures and sentences."""

from fedseal.zoo.language import TEXT_MODELS, bpe, gpt2, minilm, sentences, text_batch, text_models, tiny_bert
from fedseal.zoo.models import MODELS, build, convnet, lenet, mlp, resnet, vit
from fedseal.zoo.pictures import fashion_mnist, gallery, photos
from fedseal.zoo.prior import held_out_sentences, language_prior
from fedseal.zoo.tables import TABLES, breast_cancer, diabetes, fair, wine

__all__ = [
    "MODELS",
    "TABLES",
    "TEXT_MODELS",
    "bpe",
    "breast_cancer",
    "build",
    "convnet",
    "diabetes",
    "fair",
    "fashion_mnist",
    "gallery",
    "gpt2",
    "held_out_sentences",
    "language_prior",
    "lenet",
    "minilm",
    "mlp",
    "photos",
    "resnet",
    "sentences",
    "text_batch",
    "text_models",
    "tiny_bert",
    "vit",
    "wine",
]
