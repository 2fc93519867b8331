"""Real parts that the tests start: an MLflow server, a PostgreSQL server."""
