"""What ledger and gates know of published exports: told when files stand, taken back before they change."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from registry_export.entities import ExportReport, ModelVersionRef, Status, Verification
from registry_export.errors import LedgerError
from registry_export.ledger import KnownExport, KnownExports
from registry_export.manifest import Manifest, manifest_digest
from registry_export.report import result_digest

_log = logging.getLogger(__name__)


def forget(
    index: KnownExports | None, ref: ModelVersionRef, variants: Iterable[str], standing: Collection[str] = ()
) -> None:
    """Take exports back whose files are about to be replaced; a ledger that does not answer is only logged.

    Args:
        index: The ledger's; None: there is none.
        ref: The version.
        variants: Which exports.
        standing: Those of them whose model files stay as they are and verified: gates go on to believe in them.

    Raises:
        LedgerUnavailableError: The registry's database does not answer, and gates would go on to believe in them.
    """
    named = list(variants)
    if not named:
        return
    _tell(lambda: index.forget(ref, named) if index is not None else None)
    if index is not None and index.vouchers is not None:
        index.vouchers.withdraw(ref, [variant for variant in named if variant not in standing])


def remember(
    index: KnownExports | None, report: ExportReport, exports: Iterable[KnownExport], vouched: Mapping[str, str]
) -> None:
    """Let ledger and gates know of exports that are published; a ledger that does not answer is only logged.

    Args:
        index: The ledger's; None: there is none.
        report: As it is published; what it does not call verified opens no gate.
        exports: What need not be made again.
        vouched: The digests of the manifests, in hex, of variants whose verdict is a worker's on this ledger.

    Raises:
        LedgerUnavailableError: The registry's database does not answer.
    """
    known = list(exports)
    _tell(lambda: index.remember(known) if index is not None else None)
    if index is not None and index.vouchers is not None:
        verified = {result.variant for result in report.targets if result.status is Status.VERIFIED}
        told = {variant: digest for variant, digest in vouched.items() if variant in verified}
        others = [result.variant for result in report.targets if result.variant not in verified]
        index.vouchers.settle(report.model_version, told, others)


def known_exports(report: ExportReport, manifests: Iterable[Manifest]) -> Iterator[KnownExport]:
    """Yield what the ledger should know of exports that are published: those that need not be made again.

    Args:
        report: As it is published.
        manifests: Those of its exports.
    """
    results = {result.variant: result for result in report.targets}
    for manifest in manifests:
        if is_settled(manifest.status, manifest.verification) and manifest.key:
            told = result_digest(results[manifest.variant])
            yield KnownExport(manifest.key, report.model_version, manifest.variant, manifest_digest(manifest), told)


def is_settled(status: Status, verification: Verification | None) -> bool:
    """Say whether making an export anew would show no more of it; what its metrics say is another question."""
    if verification is not None:
        status = verification.status
    waits = verification is not None and verification.absent
    return status is Status.VERIFIED or (status is Status.UNVERIFIED and waits)


def _tell(act: Callable[[], None]) -> None:
    try:
        act()
    except LedgerError as error:
        _log.warning("What is exported could not be noted; it may be made once more. %s", error)
