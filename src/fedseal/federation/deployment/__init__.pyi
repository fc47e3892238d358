from .engine import Deployment as Deployment
from .folder import Place as Place
from .folder import numbers as numbers
from .folder import place as place
from .folder import write as write
from .node import take_part as take_part
