"""The recipes of docs/operations.md, section "Rights", as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import sqlalchemy

_PAGE = Path(__file__).parents[2] / "docs" / "operations.md"

SERVER_ROLE, WORKER_ROLE = "mlflow_server", "registry_export"


def blocks(language: str) -> list[str]:
    """Return the section's blocks of code in one language."""
    section = _PAGE.read_text().partition("\n## Rights\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


class Rights:
    """Context manager: a PostgreSQL database with the roles of the recipe, which are the whole server's and go again.

    Attributes:
        admin: A superuser's URL.
        server: That of MLflow's role, which owns the database.
        worker: That of the worker's role.
    """

    def __init__(self, admin: str, server_password: str = "of the server", worker_password: str = "of-the-worker"):
        url = sqlalchemy.make_url(admin)
        self.admin = admin
        self.server, self.worker = (
            url.set(username=name, password=password).render_as_string(hide_password=False)
            for name, password in ((SERVER_ROLE, server_password), (WORKER_ROLE, worker_password))
        )
        self._database = url.database

    def run(self, uri, *statements):
        """Execute SQL as one of the roles."""
        engine = sqlalchemy.create_engine(uri, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                for statement in statements:
                    connection.exec_driver_sql(statement)
        finally:
            engine.dispose()

    def prepare(self):
        """Do what the page tells the administrator and the server's role to do."""
        administrators, servers = blocks("sql")
        self.run(self.admin, administrators)
        self.run(self.server, servers)

    def __enter__(self):
        self.run(
            self.admin,
            f"CREATE ROLE {SERVER_ROLE} LOGIN PASSWORD 'any'",
            f'ALTER DATABASE "{self._database}" OWNER TO {SERVER_ROLE}',
        )
        return self

    def __exit__(self, *_error):
        self.run(self.admin, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE '%%server'")
        self.run(self.admin, f'ALTER DATABASE "{self._database}" OWNER TO CURRENT_USER')
        for role in (WORKER_ROLE, SERVER_ROLE):
            self.run(
                self.admin,
                f"DO $$ BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN "
                f"EXECUTE 'DROP OWNED BY {role} CASCADE'; EXECUTE 'DROP ROLE {role}'; END IF; END $$",
            )
