"""Core ML packages: making, reading, checking and running them."""
