"""Examples to copy from. A package, since some installed ones bring an `examples` of their own."""
