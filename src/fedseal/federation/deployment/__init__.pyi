from .engine import Deployment as Deployment
from .folder import Place as Place
from .folder import party_numbers as party_numbers
from .folder import place as place
from .folder import write_folders as write_folders
from .node import take_part as take_part
