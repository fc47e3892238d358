from .audit import Setup as Setup
from .audit import load_config as load_config
from .data.dataset import Dataset as Dataset
from .data.load import load_data as load_data
from .factory import build_object as build_object
from .factory import load_object as load_object
from .models import build_model as build_model
from .training import training as training
