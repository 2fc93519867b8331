"""Reading MXNet's models without MXNet."""
