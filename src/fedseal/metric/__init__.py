"""How much of the truth a reconstruction holds, never without what a blind guess holds.

Nothing here knows how the reconstruction was made, and no attack can import from here.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
