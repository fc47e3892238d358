"""Attacks: exact routes, optimizations, and the planner that chooses.

`parse` reads specifications such as "dlg:steps=100"; `labels` holds the methods that read labels alone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
