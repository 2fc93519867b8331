"""Queue a promotion in as few statements as its database allows, made once and handed to the driver as they are.

The hook stands in the way of a person's request, so it asks nothing that a statement can find out itself: what the
status tag said, and whether the version is a prompt. SQLite needs two statements between SAVEPOINT and RELEASE, and no
network; PostgreSQL takes everything in one message where its driver is psycopg2, which alone can send several
statements with parameters. All other databases and drivers go the hook's general way.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Insert, bindparam, exists, func, literal, select, union_all
from sqlalchemy.dialects import mysql, postgresql, sqlite

from registry_export.outbox import STATUS_TAG, TRIGGER_TAG, database_now_ms, outbox

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Table

PROMPT_TAG = "mlflow.prompt.is_prompt"
"""MLflow keeps prompts in the registry as well; this tag says of a version that it is one, if its value is `true`."""

QUEUED = "queued"

_TRUE = "true"

_BEGIN, _KEEP, _UNDO = (f"{verb} registry_export_hook" for verb in ("SAVEPOINT", "RELEASE SAVEPOINT", "ROLLBACK TO"))


@dataclass(frozen=True)
class _Statement:
    """One statement as the driver takes it, with the parameters that never change."""

    text: str
    constants: dict[str, Any]


def queue(
    connection: Connection,
    target: Any,
    trigger: str,
    previous: str | None,
    pending_tags: Mapping[str, Any],
    details: str | None = None,
) -> None:
    """Write the outbox row and the tags `queued` and trigger, all or none; for a prompt none.

    Args:
        connection: The promotion's own; its transaction goes on, whatever is raised here.
        target: MLflow's model version or alias: what names the version.
        trigger: `stage:Staging`, `alias:champion`, `copied:digits/3`.
        previous: What the promotion replaced; None: nothing, or not known.
        pending_tags: MLflow's tags that this transaction has yet to insert for the version, by key.
        details: What only this transaction knows of the promotion, in JSON.
    """
    if PROMPT_TAG in pending_tags and _says_true(pending_tags[PROMPT_TAG].value):
        return
    row = {
        "event": uuid.uuid4().hex,
        "workspace": getattr(target, "workspace", None),
        "model_name": target.name,
        "version": str(target.version),
        "trigger": trigger,
        "previous": previous,
        "details": details,
    }
    pending = {name: pending_tags[name] for name in (STATUS_TAG, TRIGGER_TAG) if name in pending_tags}
    if not pending and connection.dialect.driver in ("pysqlite", "psycopg2"):
        _queue_at_once(connection, {**row, "number": target.version})
    else:
        with connection.begin_nested():
            _queue_step_by_step(connection, target, row, pending)


def says_prompt(tags: Table) -> tuple[ColumnElement[bool], ...]:
    """Name the tags by which MLflow takes a version for a prompt; with another value it takes it for a model."""
    return tags.c.key == PROMPT_TAG, func.lower(tags.c.value) == _TRUE


def _says_true(value: str | None) -> bool:
    return value is not None and value.lower() == _TRUE


def _queue_at_once(connection: Connection, parameters: dict[str, Any]) -> None:
    queue = _on_postgresql if connection.dialect.name == "postgresql" else _on_sqlite
    queue(connection, parameters)


def _on_postgresql(connection: Connection, parameters: dict[str, Any]) -> None:
    """Send everything in one message. What fails before it is sent leaves no savepoint to go back to."""
    both = _for_postgresql()
    cursor = connection.connection.cursor()
    try:
        cursor.execute(f"{_BEGIN}; {both.text}; {_KEEP}", {**both.constants, **parameters})
    except BaseException:
        if _has_failed(connection):
            cursor.execute(f"{_UNDO}; {_KEEP}")
        raise
    finally:
        cursor.close()


def _on_sqlite(connection: Connection, parameters: dict[str, Any]) -> None:
    first, second = _for_sqlite()
    cursor = connection.connection.cursor()
    try:
        cursor.execute(_BEGIN)
        try:
            cursor.execute(first.text, {**first.constants, **parameters})
            if cursor.rowcount:
                cursor.execute(second.text, {**second.constants, **parameters})
        except BaseException:
            cursor.execute(_UNDO)
            raise
        finally:
            cursor.execute(_KEEP)
    finally:
        cursor.close()


_IN_ERROR = 3
"""`psycopg2.extensions.TRANSACTION_STATUS_INERROR`."""


def _has_failed(connection: Connection) -> bool:
    """Say whether PostgreSQL refused a statement of the transaction, which psycopg2 knows without asking it."""
    driver: Any = connection.connection.dbapi_connection
    return bool(driver.info.transaction_status == _IN_ERROR)


def _queue_step_by_step(connection: Connection, target: Any, row: dict[str, Any], pending: Mapping[str, Any]) -> None:
    tags, _ = _tags()
    key = {name: getattr(target, name) for name in ("name", "version", "workspace") if name in tags.c}
    query = select(tags.c.key, tags.c.value).where(tags.c.key.in_((STATUS_TAG, PROMPT_TAG)))
    for column, value in key.items():
        query = query.where(tags.c[column] == value)
    present = {name: value for name, value in connection.execute(query)}  # noqa: C416 - rows are no pairs to a type checker
    if _says_true(present.get(PROMPT_TAG)):
        return
    status = pending[STATUS_TAG].value if STATUS_TAG in pending else present.get(STATUS_TAG)
    values = {**row, "previous_status": status, "created_at_ms": database_now_ms()}
    connection.execute(outbox.insert().inline().values(values))
    for tag, value in ((STATUS_TAG, QUEUED), (TRIGGER_TAG, row["trigger"])):
        if tag in pending:
            # A copied version brings its source's tags, which are inserted after it: writing the row here as well
            # would break the copy.
            pending[tag].value = value
        else:
            _set_tag(connection, tags, {**key, "key": tag}, value)


def _set_tag(connection: Connection, tags: Table, key: dict[str, Any], value: str) -> None:
    """Insert or overwrite a tag; in one statement, where it can be, lest a worker sets it in between."""
    insert: Any = {"mysql": mysql, "mariadb": mysql, "postgresql": postgresql, "sqlite": sqlite}.get(
        connection.dialect.name
    )
    if insert is None:
        same = [tags.c[column] == value for column, value in key.items()]
        if connection.execute(tags.update().where(*same).values(value=value)).rowcount == 0:
            connection.execute(tags.insert().values({**key, "value": value}))
        return
    statement = insert.insert(tags).values({**key, "value": value})
    if insert is mysql:
        connection.execute(statement.on_duplicate_key_update(value=value))
    else:
        connection.execute(_overwriting(statement, tags))


def _overwriting(statement: Any, tags: Table) -> Any:
    return statement.on_conflict_do_update(
        index_elements=list(tags.primary_key), set_={"value": statement.excluded.value}
    )


@functools.cache
def _for_postgresql() -> _Statement:
    tags, key = _tags()
    promotion = _row(tags, key).returning(outbox.c.id).cte("promotion")
    both = [select(*values.values()).select_from(promotion) for values in _tag_rows(key)]
    insert = postgresql.insert(tags).from_select([*key, "key", "value"], union_all(*both))
    psycopg2: Any = postgresql.psycopg2
    compiled = _overwriting(insert.add_cte(promotion), tags).compile(dialect=psycopg2.dialect())
    return _Statement(str(compiled), dict(compiled.params))


@functools.cache
def _for_sqlite() -> tuple[_Statement, _Statement]:
    tags, key = _tags()
    upsert = _overwriting(sqlite.insert(tags).values(_tag_rows(key)), tags)
    by_name = sqlite.dialect(paramstyle="named")
    row, both = (statement.compile(dialect=by_name) for statement in (_row(tags, key), upsert))
    return _Statement(str(row), dict(row.params)), _Statement(str(both), dict(both.params))


def _tags() -> tuple[Table, dict[str, Any]]:
    """Return MLflow's table of version tags, and what names a version in it."""
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersionTag

    tags: Table = SqlModelVersionTag.__table__
    key: dict[str, Any] = {"name": bindparam("model_name"), "version": bindparam("number")}
    if "workspace" in tags.c:  # older MLflow has none
        key["workspace"] = bindparam("workspace")
    return tags, key


def _tag_rows(key: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the columns of the two tags that every promotion sets."""
    values: tuple[tuple[str, Any], ...] = ((STATUS_TAG, literal(QUEUED)), (TRIGGER_TAG, bindparam("trigger")))
    return [{**key, "key": literal(tag), "value": value} for tag, value in values]


def _row(tags: Table, key: dict[str, Any]) -> Insert:
    """Insert the outbox row with what the status tag says now, unless the version is a prompt."""
    same = [tags.c[column] == value for column, value in key.items()]
    values: dict[str, Any] = {
        **{
            name: bindparam(name)
            for name in ("event", "workspace", "model_name", "version", "trigger", "previous", "details")
        },
        "previous_status": select(tags.c.value).where(*same, tags.c.key == STATUS_TAG).scalar_subquery(),
        "created_at_ms": database_now_ms(),
    }
    is_prompt = exists().where(*same, *says_prompt(tags))
    return outbox.insert().from_select(list(values), select(*values.values()).where(~is_prompt))
