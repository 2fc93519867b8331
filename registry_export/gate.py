"""Whether a promotion is let through: asked in its own transaction, answered from our own tables alone.

The server reads in its own environment what the rules require, once and again when the file has changed; where they
require nothing of a promotion, that costs a look at the file's time. What cannot be found out blocks nobody, unless
the rule says `gate: strict`.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, or_, select

from registry_export.gate_rules import rules
from registry_export.gate_tables import APPROVE_TAG, EXPORT, OWN, OWN_LASTS_MS, approvals, exists, vouchers
from registry_export.outbox import database_now_ms, stored_workspace
from registry_export.queueing import says_prompt

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Table

    from registry_export.config import Requirement

APPROVAL = "approval"
"""The key in the outbox row's details under which it says who let the promotion through."""

_PROMPT_SOURCES = ("prompt-template", "dummy-source")
"""What MLflow writes for good where a model's version names its files: a prompt has none."""

_logger = logging.getLogger(__name__)

_PASSED: tuple[str, None] = ("", None)


def check(connection: Connection, target: Any, promotion: str) -> tuple[str, str | None]:
    """Ask whether a promotion is let through.

    Args:
        connection: The promotion's own, in a transaction; that goes on, whatever happens here.
        target: MLflow's model version or alias: what names the version.
        promotion: `stage:Production`, `alias:champion`.

    Returns:
        Why it is not, in a sentence, empty where it is; and what its outbox row is to say of it, in JSON.
    """
    requirement = rules.now(connection).of(target.name, promotion)
    if requirement is None:
        return _PASSED
    try:
        with connection.begin_nested():
            return _judge(connection, target, promotion, requirement)
    except Exception as error:
        _logger.exception("The gate before %s could not look up %s/%s.", promotion, target.name, target.version)
        if not requirement.strict:
            return _PASSED
        why = f"what is verified could not be looked up ({type(error).__name__}), and the rule says `gate: strict`"
        return f"{_subject(target, promotion)}: {why}.", None


def of_version(table: Table, target: Any, created_ms: int | None) -> tuple[ColumnElement[bool], ...]:
    """Name the rows of one of our tables that speak of a version, and of no earlier one of the same name.

    Args:
        table: One that has these columns.
        target: MLflow's row that names the version.
        created_ms: When MLflow created the version.
    """
    return (
        table.c.workspace == stored_workspace(getattr(target, "workspace", None)),
        table.c.model_name == target.name,
        table.c.version == str(target.version),
        table.c.version_created_ms == created_ms,
    )


def created_ms(connection: Connection, target: Any) -> int | None:
    """Read when MLflow created the version that one of its rows names."""
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion

    versions: Table = SqlModelVersion.__table__
    return connection.execute(select(versions.c.creation_time).where(*_same(versions, target))).scalar()


def _is_prompt(connection: Connection, target: Any) -> bool:
    """Whether a version is a prompt; the tag alone proves nothing, for whoever may edit a model may set it there."""
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlModelVersionTag

    versions: Table = SqlModelVersion.__table__
    tags: Table = SqlModelVersionTag.__table__
    tagged = select(tags.c.key).where(*_same(tags, target), *says_prompt(tags)).exists()
    query = select(versions.c.source).where(*_same(versions, target), tagged)
    return connection.execute(query).scalar() in _PROMPT_SOURCES


def _same(table: Table, target: Any) -> list[ColumnElement[bool]]:
    """Name a version in one of MLflow's tables; older MLflow has no workspaces."""
    names = [name for name in ("name", "version", "workspace") if name in table.c]
    return [table.c[name] == getattr(target, name) for name in names]


_UNTOLD = (
    " No worker has told this database of any export yet: one has to run with REGISTRY_EXPORT_OUTBOX_URI set to it."
)


def _judge(connection: Connection, target: Any, promotion: str, requirement: Requirement) -> tuple[str, str | None]:
    created = created_ms(connection, target)
    fresh = vouchers.c.created_at_ms > database_now_ms() - OWN_LASTS_MS
    own = and_(vouchers.c.kind == OWN, vouchers.c.name == promotion, fresh)
    query = select(vouchers.c.kind, vouchers.c.name).where(*of_version(vouchers, target, created))
    told = exists(connection, vouchers)
    found = connection.execute(query.where(or_(vouchers.c.kind == EXPORT, own))).all() if told else []
    verified = {row.name for row in found if row.kind == EXPORT}
    lacking = [variant for variant in requirement.targets if variant not in verified]
    if not lacking or any(row.kind == OWN for row in found):
        return _PASSED
    if _is_prompt(connection, target):
        return _PASSED
    approval = _approval(connection, target, created, requirement)
    if approval is None:
        return _sentence(target, promotion, requirement, lacking) + ("" if told else _UNTOLD), None
    _logger.warning(
        "%s/%s is let through to %s without %s: approved by %s.",
        *(target.name, target.version, promotion, ", ".join(lacking), approval["by"] or "unknown"),
    )
    return "", json.dumps({APPROVAL: {**approval, "lacking": lacking}})


def _approval(
    connection: Connection, target: Any, created: int | None, requirement: Requirement
) -> dict[str, Any] | None:
    """Find the approval that stands for a version, if it is of one whom the rule names."""
    if not requirement.approvals or not exists(connection, approvals):
        return None
    query = select(approvals).where(*of_version(approvals, target, created), approvals.c.withdrawn_at_ms.is_(None))
    row = connection.execute(query.order_by(approvals.c.id.desc()).limit(1)).first()
    if row is None or not ("*" in requirement.approvals or row.approved_by in requirement.approvals):
        return None
    return {"by": row.approved_by, "at_ms": row.created_at_ms, "reason": row.reason}


def _subject(target: Any, promotion: str) -> str:
    kind, _, value = promotion.partition(":")
    goal = f"the alias {value}" if kind == "alias" else value
    return f"{target.name}/{target.version} was not promoted to {goal}"


def _sentence(target: Any, promotion: str, requirement: Requirement, lacking: list[str]) -> str:
    needed = ", ".join(requirement.targets)
    approve = f" Whoever may approve it as it is sets the tag `{APPROVE_TAG}` on it." if requirement.approvals else ""
    return (
        f"{_subject(target, promotion)}: that requires verified exports ({needed}), and it has no verified "
        f"{' and no verified '.join(lacking)}. Promote it to another stage or alias first, or run "
        f"`registry-export export models:/{target.name}/{target.version}`; its page shows what became of each."
        f"{approve}"
    )
