"""The equations that layers' gradients obey, solved: the algebra behind exact routes and certificates."""
