from .image import Image as Image
from .language import LanguageModel as LanguageModel
from .table import Table as Table
from .table import read_table as read_table
from .tabular import Categorical as Categorical
from .tabular import Continuous as Continuous
from .tabular import Tabular as Tabular
from .text import Text as Text
