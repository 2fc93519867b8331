"""Finding the framework's model inside a Python function of MLflow."""
