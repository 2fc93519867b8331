"""The outbox of a server that several tests share."""

from __future__ import annotations

import sqlalchemy


def empty_outbox_of(database_uri: str) -> None:
    """Leave no promotions of one test to the next one's worker."""
    engine = sqlalchemy.create_engine(database_uri)
    with engine.begin() as connection:
        if sqlalchemy.inspect(connection).has_table("registry_export_outbox"):
            connection.exec_driver_sql("DELETE FROM registry_export_outbox")
    engine.dispose()
