"""Array operations: the decoder, the encoder and sampling, on MLX everywhere and on C++ primitives of our own on CPUs."""
