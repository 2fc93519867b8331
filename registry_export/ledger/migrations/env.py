"""What alembic executes: the revisions, on the connection and in the transaction that `migrate` has opened.

It configures no logging, and alembic's own table of versions is named as our tables are.
"""

from alembic import context

from registry_export.ledger.migrations import VERSION_TABLE
from registry_export.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
context.run_migrations()
