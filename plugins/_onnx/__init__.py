"""What the ways into ONNX share: files, names, opsets, the runner, the exporters of PyTorch."""
