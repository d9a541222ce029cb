"""Reading activations from a running model; the only package that imports nnsight."""
