"""What the format `ncnn` is made of."""
