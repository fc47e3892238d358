from .base import LabelMethod as LabelMethod
from .base import Labels as Labels
from .combination import best as best
from .methods import METHODS as METHODS
from .methods import Method as Method
from .ways import Inferred as Inferred
from .ways import way_to_labels as way_to_labels
