"""Promote a model in MLflow, get verified deployment formats on its page."""
