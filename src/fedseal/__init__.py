"""fedseal: what do your federated-learning updates leak, and what makes it stop?"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
