"""What "an input" is; one file a modality."""

from fedseal.modality.image import Image
from fedseal.modality.language import LanguageModel
from fedseal.modality.table import Table, read_table
from fedseal.modality.tabular import Categorical, Continuous, Tabular
from fedseal.modality.text import Text

__all__ = ["Categorical", "Continuous", "Image", "LanguageModel", "Table", "Tabular", "Text", "read_table"]
