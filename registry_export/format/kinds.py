"""The kinds that loaders of ours yield; the package's docstring says what each of them is."""

TORCH_MODULE = "torch_module"
EXPORTED_PROGRAM = "exported_program"
TORCHSCRIPT = "torchscript"
KERAS_MODEL = "keras_model"
TF_FUNCTION = "tf_function"
ONNX_MODEL = "onnx_model"
