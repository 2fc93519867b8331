"""What the TensorFlow formats share: functions, Keras models, LiteRT files, the way to ONNX."""
