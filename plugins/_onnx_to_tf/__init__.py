"""Translate ONNX graphs to TensorFlow functions: `translator` walks a graph, the rest know operators."""
