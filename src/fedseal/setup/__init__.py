"""From names, files and options to values: models, data, trainings, and what an attack, audit or federation is asked.

Nothing here knows the terminal; a mistake raises a `FedsealError`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
