"""Approvals: who has set the tag `registry_export.approve` on a version, when, and what it said.

The tag itself proves nothing, because whoever may edit a version may write it, and nobody sees who did. What counts is
the row that the hook writes beside it, with the user whom MLflow's basic-auth has let in.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from registry_export.gate import created_ms, of_version
from registry_export.gate_tables import LONGEST_APPROVAL, approvals, create, exists
from registry_export.outbox import database_now_ms, stored_workspace

if TYPE_CHECKING:
    from sqlalchemy import Connection

_AUTH = "mlflow.server.auth"


def record(connection: Connection, tag: Any) -> None:
    """Write down an approval, in place of an earlier one.

    Args:
        connection: That of the transaction in which the tag is written.
        tag: MLflow's tag; an empty one takes the approval back.
    """
    create(connection, approvals)
    created = created_ms(connection, tag)
    with connection.begin_nested():
        _withdraw(connection, tag, created)
        reason = str(tag.value or "").strip()
        if reason and created is not None:
            row = {
                "workspace": stored_workspace(getattr(tag, "workspace", None)),
                "model_name": tag.name,
                "version": str(tag.version),
                "version_created_ms": created,
                "approved_by": user(),
                "reason": reason[:LONGEST_APPROVAL],
                "created_at_ms": database_now_ms(),
            }
            connection.execute(approvals.insert().values(row))


def withdraw(connection: Connection, tag: Any) -> None:
    """Take an approval back, because its tag is removed."""
    if exists(connection, approvals):
        with connection.begin_nested():
            _withdraw(connection, tag, created_ms(connection, tag))


def user() -> str:
    """Return whom MLflow's basic-auth has let in with this request; empty where nobody has looked.

    Without that, a name in a request is whatever its sender writes there.
    """
    auth, flask = sys.modules.get(_AUTH), sys.modules.get("flask")
    if auth is None or flask is None or not flask.has_request_context():
        return ""
    if auth._before_request not in flask.current_app.before_request_funcs.get(None, ()):
        return ""
    return str(getattr(auth.authenticate_request(), "username", None) or "")


def _withdraw(connection: Connection, tag: Any, created: int | None) -> None:
    stands = (*of_version(approvals, tag, created), approvals.c.withdrawn_at_ms.is_(None))
    connection.execute(approvals.update().where(*stands).values(withdrawn_at_ms=database_now_ms()))
