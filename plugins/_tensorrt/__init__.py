"""TensorRT and TensorRT-RTX: built, read back with or without a GPU, run where there is one."""
