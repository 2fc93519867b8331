"""Every error of the package, in one tree, named by the stage of an export at which it is raised.

A stage's error says what happened, where, and what to do about it; the exception that caused it is
chained with ``raise ... from``. :func:`to_record` turns any of them into the ``error`` object of
``report.json``.
"""

from __future__ import annotations

import errno
import tempfile
from typing import ClassVar

from registry_export.entities import ErrorRecord


class RegistryExportError(Exception):
    """Base of the tree.

    Args:
        message: One sentence that says what is wrong and where.
        remedy: What the reader can do about it, as a sentence; empty where there is nothing.
        step: The step it belongs to, where that is narrower than the stage (``onnx -> tflite``).

    Attributes:
        stage: Where in an export this kind of error is raised, as shown in tags and reports.
        transient: Whether the same call may succeed later without anybody changing anything.
    """

    stage: ClassVar[str] = "Export"
    transient: ClassVar[bool] = False

    def __init__(self, message: str, *, remedy: str = "", step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.step = step or self.stage

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".rstrip()


class ConfigurationError(RegistryExportError):
    """A configuration file, a target or an option cannot be understood."""

    stage = "Configure"


class RegistryError(RegistryExportError):
    """The model registry refused a call or holds something we cannot use."""

    stage = "Registry"


class ModelVersionNotFoundError(RegistryError):
    """The model version does not exist, or was deleted."""


class RegistryUnavailableError(RegistryError):
    """The tracking server or the artifact store did not answer."""

    transient = True


class SourceError(RegistryExportError):
    """The checkpoint cannot be read."""

    stage = "Load"


class UnsupportedSourceError(SourceError):
    """No installed format recognises the checkpoint."""


class SamplesError(RegistryExportError):
    """There is nothing to run the model on."""

    stage = "Samples"


class PlanError(RegistryExportError):
    """A target cannot be planned."""

    stage = "Plan"


class UnsupportedTargetError(PlanError):
    """No route leads from the checkpoint to the target."""


class MissingPackageError(PlanError):
    """The route exists, but a package that it needs is not installed."""


class ChildError(RegistryExportError):
    """A child process ended without an answer."""

    stage = "Child"


class ChildCrashedError(ChildError):
    """A child process was ended by a signal or left with an exit status."""


class ChildKilledError(ChildCrashedError):
    """Somebody killed a child process or its warm parent: the system for want of memory, or a person."""


class ChildTimeoutError(ChildError):
    """A child process exceeded its time limit."""


class ChildOutOfMemoryError(ChildError):
    """A child process exceeded its memory limit, or an allocation in it failed."""


class StepTooLargeError(ChildError):
    """A step needs more memory than this machine has, and was not begun."""


class ClusterError(ChildError):
    """A cluster cannot run a step, or cannot bring home what it made."""


class ClusterUnavailableError(ClusterError):
    """A cluster's scheduler, all of its workers, or the store between them and us did not answer."""

    transient = True


class SandboxError(ChildError):
    """A rule demands walls around a checkpoint that this system does not have."""


class ConversionError(RegistryExportError):
    """A converter refused the model, or what it wrote is not what was asked for."""

    stage = "Convert"


class UnsupportedModelError(ConversionError):
    """A converter has no way to express a part of the model."""


class VerificationError(RegistryExportError):
    """An exported artifact cannot be loaded or run."""

    stage = "Verify"


class RuntimeAbsentError(VerificationError):
    """The runtime that would verify an artifact is not available on this machine."""


class EvaluationError(RegistryExportError):
    """How good a model is could not be measured."""

    stage = "Evaluate"


class PublishError(RegistryExportError):
    """Results could not be written to the registry."""

    stage = "Publish"


class ArtifactError(RegistryExportError):
    """A published artifact is missing, torn or not what its manifest says."""

    stage = "Artifact"


class UnsignedError(ArtifactError):
    """An artifact carries no signature by a key that is asked for."""


class LedgerError(RegistryExportError):
    """The ledger refused an operation."""

    stage = "Ledger"


class JobNotFoundError(LedgerError):
    """The ledger has no job of that number."""


class LedgerUnavailableError(LedgerError):
    """The ledger's database did not answer."""

    transient = True


class StaleLeaseError(LedgerError):
    """A worker tried to settle a job whose lease is another worker's by now."""


class DiskFullError(RegistryExportError):
    """No space is left where temporary files are: nobody's fault but this machine's, and another one may do."""

    stage = "Disk"
    transient = True


class ExportCancelledError(RegistryExportError):
    """A person stopped the export."""


ENDS_THE_EXPORT = (ExportCancelledError, ClusterUnavailableError, DiskFullError)
"""What is no fault of the step in which it shows: whoever lives with a step's error lets these pass."""


_FULL = (errno.ENOSPC, errno.EDQUOT)


def full_disk(error: BaseException) -> DiskFullError | None:
    """Return what is to be said where an exception, or what caused it, is a full disk of this machine."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:  # Python lets an exception be its own cause
        seen.add(id(cause))
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return DiskFullError(
                f"No space is left for temporary files ({tempfile.gettempdir()}).",
                remedy="Free some, or set TMPDIR to another disk.",
            )
        cause = cause.__cause__ or cause.__context__
    return None


def to_record(error: BaseException, step: str = "") -> ErrorRecord:
    """Describe an exception for ``report.json`` and the tags.

    Args:
        error: Any exception; those outside the tree are named by their class.
        step: The step to name instead of the error's own.
    """
    if isinstance(error, RegistryExportError):
        return ErrorRecord(step=step or error.step, type=type(error).__name__, message=str(error))
    return ErrorRecord(step=step or "Export", type=type(error).__name__, message=str(error) or repr(error))
