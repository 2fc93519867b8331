"""What the PyTorch formats share: loading, calling, exporting and tracing modules."""
