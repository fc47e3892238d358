"""Audits: attacks x defenses x threat models on a case, recorded as they go, resumable at any moment."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
