"""Runs packages: with Core ML where it is, which is on macOS, and elsewhere with the evaluator.

Source: https://apple.github.io/coremltools/source/coremltools.models.html
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import VerificationError
from registry_export.format import Array, Intermediate, Tensors
from registry_export_plugins._coreml.description import declared
from registry_export_plugins._coreml.names import source_names, source_scalars, source_types
from registry_export_plugins._coreml.package import Package
from registry_export_plugins._coreml.structure import check
from registry_export_plugins._inputs import in_order


class PackageRunner:
    """Feeds a package with the source's names and element types.

    Integers and booleans travel as int32, after a check that their values fit; outputs come back in
    the element types and with the axes that the interface says.

    Args:
        package: The package; its structure has been checked.
        interface: The source's inputs and outputs; those of the package where it is empty.
        model: Answers arrays by feature (`predict`).
        runtime: What that is.
        by: `runtime`, or `evaluator` where something computes in Core ML's place.
    """

    def __init__(self, package: Package, interface: Interface, model: Any, runtime: str, by: str) -> None:
        found = declared(package)
        self._stored = (found.inputs, found.outputs)
        self._inputs = _features(package.spec.description.input, package, found.inputs)
        self._outputs = _features(package.spec.description.output, package, found.outputs)
        self.interface = Interface(
            _declared_types(found.inputs, interface.inputs),
            _own_types(package, self._outputs, _declared_types(found.outputs, interface.outputs)),
        )
        self._model = model
        self.runtime = runtime
        self.by = by

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """Run once.

        Raises:
            VerificationError: A size is outside what the package allows, a value does not fit, or the run failed.
            RuntimeAbsentError: The evaluator does not know how an operator is used.
        """
        try:
            results = self._model.predict(self._fed(inputs))
        except (RuntimeError, ValueError, TypeError) as error:
            raise VerificationError(f"Core ML could not run the model: {error}") from error
        return {
            spec.name: _given_back(np.asarray(results[feature]), spec)
            for feature, spec in zip(self._outputs, self.interface.outputs, strict=True)
        }

    def _fed(self, inputs: Tensors) -> dict[str, Array]:
        """Return the inputs by feature, in the package's element types."""
        arrays = in_order(inputs, self.interface.inputs)
        stored = self._stored[0]
        return {
            feature: _fitting(spec, array) for feature, spec, array in zip(self._inputs, stored, arrays, strict=True)
        }


class CoreMLRunner(PackageRunner):
    """Runs a package with Core ML.

    Args:
        path: The `.mlpackage` folder; its structure has been checked.
        interface: As of `PackageRunner`.
        units: Where Core ML may compute: `CPU_ONLY`, `CPU_AND_GPU`, `CPU_AND_NE` or `ALL`.

    Raises:
        VerificationError: Core ML cannot load the package.
    """

    def __init__(self, path: Path, interface: Interface, units: str = "CPU_ONLY") -> None:
        runtime = f"Core ML, macOS {platform.mac_ver()[0]}, {units.lower()}"
        super().__init__(Package(path), interface, _load(path, units), runtime, "runtime")


class EvaluatorRunner(PackageRunner):
    """Evaluates a package, on any system.

    Args:
        path: The `.mlpackage` folder; its structure has been checked.
        interface: As of `PackageRunner`.

    Attributes:
        decisions: The sides that each decision on data has taken so far, by its place.

    Raises:
        RuntimeAbsentError: The program uses an operator that the evaluator lacks.
        VerificationError: The program is damaged.
    """

    def __init__(self, path: Path, interface: Interface) -> None:
        from registry_export_plugins._coreml.evaluation.runner import RUNTIME, EvaluatedModel

        package = Package(path)
        self._evaluated = EvaluatedModel(package)
        super().__init__(package, interface, self._evaluated, RUNTIME, "evaluator")
        self.decisions = self._evaluated.decisions

    def intermediates(self, inputs: Tensors) -> Iterator[Intermediate]:
        """Run once more and yield the tensors inside, in the order of execution."""
        return self._evaluated.intermediates(self._fed(inputs))


def open_package(path: Path, interface: Interface) -> PackageRunner:
    """Check a package's structure, then load it into Core ML, or into the evaluator where that is not.

    Raises:
        VerificationError: The structure is wrong; or Core ML cannot load it.
        RuntimeAbsentError: The structure is sound, and the evaluator lacks an operator.
    """
    check(path, interface)
    return CoreMLRunner(path, interface) if platform.system() == "Darwin" else EvaluatorRunner(path, interface)


def _load(path: Path, units: str) -> Any:
    import coremltools as ct

    try:
        return ct.models.MLModel(str(path), compute_units=getattr(ct.ComputeUnit, units))
    # Core ML's errors come through its binding as plain exceptions.
    except Exception as error:
        raise VerificationError(f"Core ML cannot load {path.name}: {error}") from error


def _features(told: Any, package: Package, specs: tuple[TensorSpec, ...]) -> list[str]:
    """Return the package's own names of inputs or outputs, in the order of `specs`."""
    names = source_names(package.metadata, [feature.name for feature in told])
    by_source = {source: feature for feature, source in names.items()}
    return [by_source[spec.name] for spec in specs]


def _declared_types(found: tuple[TensorSpec, ...], wanted: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Take the source's element types, and its scalars, where it is known."""
    said = {spec.name: spec for spec in wanted}
    return tuple(
        replace(
            spec,
            dtype=said[spec.name].dtype if spec.name in said else spec.dtype,
            shape=() if spec.name in said and said[spec.name].shape == () else spec.shape,
        )
        for spec in found
    )


def _own_types(package: Package, features: list[str], specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Give outputs what the source has and Core ML has no word for: element types (int64, bool), and scalars."""
    types, scalars = source_types(package.metadata), source_scalars(package.metadata)
    return tuple(
        replace(spec, dtype=types.get(feature, spec.dtype), shape=() if feature in scalars else spec.shape)
        for feature, spec in zip(features, specs, strict=True)
    )


def _fitting(spec: TensorSpec, array: Array) -> Array:
    """Give an input the package's element type, without changing its values."""
    dtype = np.dtype(spec.dtype)
    array = np.atleast_1d(np.asarray(array))
    if dtype.kind == "i" and array.dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise VerificationError(f"The input {spec.name} holds values that do not fit the package's {dtype.name}.")
    return np.ascontiguousarray(array, dtype=dtype)


def _given_back(array: Array, spec: TensorSpec) -> Array:
    array = array.reshape(()) if spec.shape == () else array
    return array.astype("float32" if spec.dtype == "bfloat16" else spec.dtype)
