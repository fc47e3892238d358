"""Pairwise masks and one server, who needs every client's answer only as far as others cannot stand in for it.

    ADVERTISE  client -> server    two public keys
    KEYS       server -> clients   everybody's
    BACKUP     client -> server    shares of its two secrets, sealed for its neighbors
    RELAY      server -> clients   who shared, and the shares for each
    MASKED     client -> server    (and chunks) its vector under all masks
    SURVIVORS  server -> clients   whose vectors arrived
    CONFIRM    client -> server    a signature over all that it was told
    CONFIRMED  server -> clients   everybody's signatures
    UNMASK     client -> server    its own seed; its shares of survivors' seeds and of dropped clients' keys

Bonawitz et al., Practical secure aggregation for privacy-preserving machine learning, CCS 2017, ePrint 2017/281, in the
variant against a server that lies, on the graph of Bell et al., CCS 2020. One thing is other than there: who is still
there in the last phase hands over its own seed, so that only the seeds of those who vanish late are put together from
shares. Its neighbors would hand over the same seed's shares in the same message.
"""

from fedseal.secagg.masking.client import MaskingClient
from fedseal.secagg.masking.graph import Graph, degree_for
from fedseal.secagg.masking.server import Server

__all__ = ["Graph", "MaskingClient", "Server", "degree_for"]
