"""Array operations: decoder, encoder and sampling, on MLX everywhere and on C++ primitives of our own on CPUs."""
