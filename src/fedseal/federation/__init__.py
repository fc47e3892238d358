"""Federated training: a server's model, clients that answer it with updates, and their mean.

`Federation` adds updates up so that nobody can read one; it needs the extra `fedseal[federation]`, and is loaded when
it is first used. `train` is the plain reference.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
