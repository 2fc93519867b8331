"""What the format `mnn` is made of."""
