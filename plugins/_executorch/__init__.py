"""ExecuTorch: capturing, quantising and lowering a model, and running what came out."""
