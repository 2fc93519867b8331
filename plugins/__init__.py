"""The built-in formats: one file for one format, named as a user types it."""
