"""Primitives, one a file. Each is easy to use wrongly: outside of `fedseal.secagg` use the protocols instead.

What is cryptography here comes from `cryptography` (AES, X25519, HKDF, Ed25519) and pycryptodome, which puts Shamir's
shares together. Written here is arithmetic only: the ring, fixed point, the discrete Gaussian, and the polynomials of
the shares.
"""
