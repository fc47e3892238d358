"""Primitives, one a file. Each is easy to use wrongly: outside of `fedseal.secagg` use the protocols instead.

What is cryptography here comes from `cryptography` (AES, X25519, HKDF, Ed25519) and pycryptodome (Shamir's secret
sharing). Written here is arithmetic only: the ring, fixed point, and the discrete Gaussian.
"""
