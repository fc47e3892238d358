"""A federation on several hosts: Flower carries the messages, over TLS, between nodes that are known by their keys.

`write` makes a folder for each party; `Deployment` is the engine of the model owner, and `take_part` what a data owner
or an aggregator runs. Nobody executes what comes over the network: Flower would run the app that its server hands out,
and here every party answers with the code and the configuration that it has itself.

Parts are loaded when they are first used: a daemon needs no model code.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
