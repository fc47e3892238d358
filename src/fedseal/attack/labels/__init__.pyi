from .base import LabelMethod as LabelMethod
from .base import Labels as Labels
from .combination import best as best
from .methods import METHODS as METHODS
from .methods import Method as Method
