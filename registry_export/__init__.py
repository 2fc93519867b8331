"""Promote a model in MLflow, get verified deployment formats on its page.

A *promotion* (a stage transition, or an alias that is set) becomes a row in the registry's own database,
in the same transaction (`hook`). A worker moves it to the *ledger* and claims it as a job (`worker`). The
spine (`export`) then reads top to bottom: download the checkpoint, choose samples, plan the conversions that
the *targets* share (`graph`), take reference outputs from the source's own framework, convert (`conversion`)
and compare (`verification`), each in a child process of its own (`isolation`). What came out is published in
the order files, metrics, tags (`publishing`): a tag means that it is all there.

A *format* is one file that knows one way of storing a model (`format` is the contract, `discovery` finds
them). The core holds what is true of all formats and imports none. Imports go down only:

    cli, demo             arguments and printing
    api                   what this package offers to Python
    recorded              an export that a person asked for, as a job of the ledger
    hook, worker          the two ends of the queue
    export, exports       the spine; and the way back: find a verified export, check it, open it
    conversion, verification, publishing
    ledger, registry, discovery, graph, isolation, samples, manifest, report
    outbox, config, settings, format
    errors
    entities              frozen records that flow between all of these

From Python:

    >>> import registry_export
    >>> report = registry_export.export("models:/digits/3", targets=["onnx", "tflite"])  # doctest: +SKIP
    >>> path = registry_export.pull("models:/digits/3", "onnx", "build")  # doctest: +SKIP
    >>> with registry_export.load("models:/digits/3", "onnx") as runner:  # doctest: +SKIP
    ...     outputs = runner.predict({"x": x})

Importing the package imports nothing else; these three import what they need when they are called.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike
    from pathlib import Path

    from registry_export.entities import ExportReport, Tolerance
    from registry_export.loaded import LoadedExport
    from registry_export.reporter import Reporter

__all__ = ["export", "load", "pull"]


def export(
    model_uri: str,
    targets: str | Sequence[str] | None = None,
    *,
    samples: str | PathLike[str] | None = None,
    tolerance: Tolerance | None = None,
    force: bool = False,
    reporter: Reporter | None = None,
) -> ExportReport:
    """Export one model version now, verify every target, and publish what came out.

    Args:
        model_uri: `models:/name/3`, `models:/name@alias` or `models:/name/Staging`.
        targets: `onnx`, `onnx:opset_version=17`, ...; None asks the tag `registry_export.targets`, then the rules.
        samples: `.npz` file or artifact URI with inputs to verify with; None leaves it to the rule.
        tolerance: Allowed differences; None leaves them to the rule, then to the precision's default.
        force: Convert and verify anew even what is verified already.
        reporter: Hears of every step.

    Returns:
        The published report; `report.status` is the worst verdict of the required targets.

    Raises:
        ConfigurationError: A URI, a target, an option or the configuration file is not understood.
        RegistryExportError: The whole job failed. A target that fails is in the report instead.
    """
    from registry_export import api

    return api.export(model_uri, targets, samples=samples, tolerance=tolerance, force=force, reporter=reporter).report


def load(model_uri: str, target: str, *, verify_key: str | PathLike[str] | None = None) -> LoadedExport:
    """Open a published export for inference, its digests checked.

    Args:
        model_uri: As for `export`.
        target: A target (`onnx:opset_version=17`) or a variant (`onnx-opset17`).
        verify_key: A file with the public key, or several, of which one must have signed it; None leaves that to
            `REGISTRY_EXPORT_VERIFY_KEY`, and without that signatures are not looked at.

    Returns:
        A runner, usable at once: `predict` takes arrays by input name and returns arrays by output name. Its temporary
        files are gone when its `with` is left, when it is closed, or else when the process ends.

    Raises:
        ArtifactError: There is none, it is neither verified nor unverified, it is torn, or not what was signed.
        RuntimeAbsentError: Its runtime is not available on this machine.
    """
    from registry_export import api

    return api.load(model_uri, target, verify_key=verify_key)


def pull(
    model_uri: str, target: str, output: str | PathLike[str], *, verify_key: str | PathLike[str] | None = None
) -> Path:
    """Fetch a published export into a folder, its digests checked.

    Args:
        model_uri: As for `export`.
        target: As for `load`.
        output: The folder to put it in.
        verify_key: As for `load`.

    Returns:
        The deployable file or folder in `output`.

    Raises:
        ArtifactError: As for `load`.
    """
    from registry_export import api

    return api.pull(model_uri, target, output, verify_key=verify_key)


class _Package(ModuleType):
    """Keeps `registry_export.export` the function: importing the module of that name would put the module there."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
