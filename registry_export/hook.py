"""The server side: a promotion becomes a row of the outbox, in the promotion's own transaction.

MLflow imports this module at start-up, in every server process and in every client, because it is an entry point of the
group `mlflow.model_registry_store`. Importing it attaches listeners to MLflow's own mapped classes, so that neither a
flag nor a URI of `mlflow server` changes, and so that it does not matter whether a promotion comes from a registry UI,
the REST API, the Python client or a client that works on the database itself.

Two promises hold whatever goes wrong in here: the server starts, and the promotion goes through. It is logged, and the
reconciler finds the promotion later. Nothing outside the standard library is imported before those promises are in
force. Only a rule with `require` refuses a promotion, in a sentence that MLflow hands to whoever asked.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_logger = logging.getLogger(__name__)

_Listener = Callable[[Any, "Connection", Any], str]
"""Returns why the transaction is refused; empty: it is not."""

_APPROVE_TAG = "registry_export.approve"

_prepared: weakref.WeakSet[Engine] = weakref.WeakSet()
"""The engines in whose databases the outbox was seen, in a transaction other than the one that created it."""


def attach_to_mlflow(*store_arguments: Any) -> None:
    """Attach the listeners to MLflow's mapped classes; attached listeners stay as they are.

    MLflow takes this function for the builder of a registry store; as one it refuses.

    Raises:
        ValueError: somebody uses the entry point's name as the scheme of a registry URI.
    """
    if store_arguments:
        raise ValueError(
            "registry-export-hook is no registry store. Give `mlflow server` the URI of your own database "
            "(sqlite:///..., postgresql+psycopg2://...): the hook is on by being installed."
        )
    from mlflow.store.model_registry.dbmodels.models import (
        SqlModelVersion,
        SqlModelVersionTag,
        SqlRegisteredModelAlias,
    )
    from sqlalchemy import event
    from sqlalchemy.orm import Mapper

    for mapped, name, listener in (
        (SqlModelVersion, "after_update", _version_updated),
        (SqlModelVersion, "after_insert", _version_inserted),
        (SqlRegisteredModelAlias, "after_insert", _alias_set),
        (SqlRegisteredModelAlias, "after_update", _alias_updated),
        (SqlModelVersionTag, "after_insert", _tag_set),
        (SqlModelVersionTag, "after_update", _tag_updated),
        (SqlModelVersionTag, "after_delete", _tag_removed),
    ):
        if not event.contains(mapped, name, listener):
            event.listen(mapped, name, listener)
    if not event.contains(Mapper, "after_configured", _prepare_gates):
        event.listen(Mapper, "after_configured", _prepare_gates)


def _prepare_gates() -> None:
    """Import what gates need, and read the rules, when MLflow opens its first store: no transaction waits for it then.

    Clients of a server open none. What goes wrong here is met again, and told, with the first promotion.
    """
    try:
        import registry_export.approving
        import registry_export.queueing  # noqa: F401 - for later
        from registry_export.gate_rules import rules

        rules.now()
    except Exception:
        _logger.debug("Gates could not be prepared.", exc_info=True)


def _harmless(otherwise: str) -> Callable[[_Listener], Callable[[Any, Connection, Any], None]]:
    """Let nothing that goes wrong in a listener reach the transaction, only what it refuses.

    Args:
        otherwise: What is said in the log when something went wrong, with `%s` for the registered model.
    """

    def decorated(listener: _Listener) -> Callable[[Any, Connection, Any], None]:
        @functools.wraps(listener)
        def guarded(mapper: Any, connection: Connection, target: Any) -> None:
            refusal = ""
            try:
                refusal = listener(mapper, connection, target)
            except Exception:
                _logger.exception(otherwise, getattr(target, "name", "a model version"))
            if refusal:
                _refuse(refusal)

        return guarded

    return decorated


def _refuse(sentence: str) -> None:
    """End the transaction with an answer of status 403, whose text the UI shows as it is."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

    raise MlflowException(sentence, PERMISSION_DENIED)


_promotion = _harmless(
    "registry-export could not queue the promotion of %s. It stands; a worker's reconciler will find it."
)
_approval = _harmless("registry-export could not note an approval of %s. The tag stands, and opens no gate.")


@_promotion
def _version_updated(_mapper: Any, connection: Connection, target: Any) -> str:
    """A stage was set, be it the one that the version has: asking again is a wish to export again."""
    from registry_export.outbox import UNPROMOTED_STAGES

    if _was_assigned(target, "current_stage") and target.current_stage not in UNPROMOTED_STAGES:
        before = _earlier(target, "current_stage")
        return _pass(connection, target, f"stage:{target.current_stage}", before, stays=before == target.current_stage)
    return ""


@_promotion
def _version_inserted(_mapper: Any, connection: Connection, target: Any) -> str:
    """A version was created from another registered version: the UI's "Promote model"."""
    from registry_export.outbox import copied_from

    original = copied_from(target.source)
    if original is not None:
        _queue(connection, target, f"copied:{original}", pending_tags=_pending_tags(target))
    return ""


@_promotion
def _alias_set(_mapper: Any, connection: Connection, target: Any) -> str:
    """An alias was set for the first time."""
    from registry_export.outbox import ABSENT

    return _pass(connection, target, f"alias:{target.alias}", ABSENT)


@_promotion
def _alias_updated(_mapper: Any, connection: Connection, target: Any) -> str:
    """An alias was moved, or set again where it was; renaming its model touches the row without assigning a version."""
    if not _was_assigned(target, "version"):
        return ""
    before = _earlier(target, "version")
    return _pass(connection, target, f"alias:{target.alias}", before, stays=before == str(target.version))


@_approval
def _tag_set(_mapper: Any, connection: Connection, target: Any) -> str:
    """A tag was set on a version that exists; those that come with a new version, from its source, approve nothing."""
    if target.key == _APPROVE_TAG and "model_version" not in target.__dict__:
        from registry_export.approving import record

        record(connection, target)
    return ""


@_approval
def _tag_updated(_mapper: Any, connection: Connection, target: Any) -> str:
    if target.key == _APPROVE_TAG and _was_assigned(target, "value"):
        from registry_export.approving import record

        record(connection, target)
    return ""


@_approval
def _tag_removed(_mapper: Any, connection: Connection, target: Any) -> str:
    if target.key == _APPROVE_TAG:
        from registry_export.approving import withdraw

        withdraw(connection, target)
    return ""


def _pass(connection: Connection, target: Any, promotion: str, previous: str | None, *, stays: bool = False) -> str:
    """Let a promotion through its gate and queue it, or return why it is refused; what stays where it is passes."""
    from registry_export.outbox import VERIFIED_ALIAS_SUFFIX

    refusal, details = ("", None) if stays else _ask_gate(connection, target, promotion)
    if not refusal and not promotion.endswith(VERIFIED_ALIAS_SUFFIX):
        _queue(connection, target, promotion, previous=previous, details=details)
    return refusal


def _ask_gate(connection: Connection, target: Any, promotion: str) -> tuple[str, str | None]:
    """Return why a promotion is refused, and what its row is to say; a gate that is broken is open."""
    try:
        from registry_export.gate import check

        return check(connection, target, promotion)
    except Exception:
        _logger.exception("The gate before %s could not be asked.", promotion)
        return "", None


def _was_assigned(target: Any, attribute: str) -> bool:
    """Whether the attribute was assigned since the row was loaded, even with the value that it had."""
    from sqlalchemy import inspect

    return attribute in inspect(target).committed_state


def _earlier(target: Any, attribute: str) -> str | None:
    """What the database has had in an assigned attribute; None where the session never loaded it."""
    from sqlalchemy import inspect

    value = inspect(target).committed_state.get(attribute)
    return str(value) if isinstance(value, (str, int)) else None


def _pending_tags(target: Any) -> dict[str, Any]:
    """The tags that come with a new version and are written after it, by key; never loads anything."""
    return {tag.key: tag for tag in target.__dict__.get("model_version_tags", ())}


def _queue(
    connection: Connection,
    target: Any,
    trigger: str,
    *,
    previous: str | None = None,
    pending_tags: dict[str, Any] | None = None,
    details: str | None = None,
) -> None:
    """Queue a promotion without harm to the transaction around it."""
    from registry_export.queueing import queue

    _begin_where_the_driver_has_not(connection)
    _prepare(connection)
    try:
        queue(connection, target, trigger, previous, pending_tags or {}, details)
    except BaseException:
        _prepared.discard(connection.engine)
        raise
    _logger.info("Queued the promotion of %s/%s (%s).", target.name, target.version, trigger)


def _begin_where_the_driver_has_not(connection: Connection) -> None:
    """Open SQLite's transaction, which Python's driver leaves closed until the first write.

    Setting an alias where it already is writes nothing, and a SAVEPOINT outside of a transaction would commit on its
    own.
    """
    if connection.dialect.name == "sqlite":
        driver = connection.connection.driver_connection
        if not getattr(driver, "in_transaction", True):
            connection.exec_driver_sql("BEGIN")


def _prepare(connection: Connection) -> None:
    """Create the outbox where it is absent.

    In the promotion's own transaction, where DDL can be rolled back: another connection would wait for this one's
    locks on SQLite. MySQL commits at DDL, so there it is another connection's.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from registry_export.outbox import create_outbox, outbox_exists

    engine = connection.engine
    if engine in _prepared:
        return
    if outbox_exists(connection):
        _prepared.add(engine)
        return
    if connection.dialect.name in ("mysql", "mariadb"):
        create_outbox(engine)
        return
    try:
        with connection.begin_nested():
            create_outbox(connection)
    except SQLAlchemyError:
        # Another server created it in the meantime; where nobody did, the insert that follows says why.
        _logger.debug("The outbox could not be created here.", exc_info=True)


try:
    attach_to_mlflow()
except Exception as error:  # noqa: BLE001 - MLflow catches two kinds only; any other would keep the server from starting
    _logger.warning(
        "registry-export's hook is off, because MLflow's registry tables are not as expected: %s: %s. Promotions are "
        "found by the worker's reconciler alone.",
        type(error).__name__,
        error,
    )
