"""What MLflow calls to load an export: the `loader_module` of its `MLmodel`.

`mlflow.pyfunc.load_model` and `mlflow models serve` arrive here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from registry_export.discovery import discover_formats, format_named, install_command, missing_requirements
from registry_export.entities import Interface, TensorSpec
from registry_export.errors import RuntimeAbsentError, VerificationError
from registry_export.format import Runner
from registry_export.manifest import Manifest, Verifier, read_manifest, verify_files
from registry_export.settings import Settings

Array = NDArray[np.generic]


class LoadedExport:
    """An export that is open for inference: a `Runner`, and a context manager that closes it.

    Attributes:
        manifest: What it is.
    """

    def __init__(self, folder: Path) -> None:
        self.manifest = read_manifest(folder)
        self._closing = ExitStack()
        self._runner = _open(folder, self.manifest, self._closing)

    @property
    def interface(self) -> Interface:
        """Inputs and outputs by name, in order."""
        return self._runner.interface

    @property
    def runtime(self) -> str:
        """What runs it, with its version."""
        return self._runner.runtime

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model once.

        Args:
            inputs: Arrays by input name, with the dtypes of `interface`.

        Returns:
            Arrays by output name, in order.
        """
        return self._runner.infer(inputs)

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> Any:  # noqa: ARG002
        """Run the model once, on whatever MLflow and people hand over.

        Args:
            data: An array or nested lists for a model with one input; a mapping of them by input name; a
                DataFrame whose columns are the inputs, or are the columns of the only input.
            params: Takes none; MLflow passes it.

        Returns:
            An array for a model with one output, else arrays by output name.

        Raises:
            VerificationError: The data do not fit the inputs; names the input.
        """
        outputs = self.infer(bind_inputs(data, self.interface.inputs))
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def close(self) -> None:
        """Let go of the model and of its temporary files."""
        self._closing.close()

    def call_when_closed(self, callback: Any, *arguments: Any) -> None:
        """Do something more on `close`, such as removing a folder."""
        self._closing.callback(callback, *arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _load_pyfunc(path: str) -> LoadedExport:
    """Open the export in a folder; MLflow's name for it.

    Raises:
        ArtifactError: `REGISTRY_EXPORT_VERIFY_KEY` is set, and this is not what was signed with that key.
    """
    folder = Path(path)
    key = Settings.from_environment().verify_key
    if key is not None:
        Verifier.read(key).check(folder, verify_files(folder))
    return LoadedExport(folder)


def _open(folder: Path, manifest: Manifest, closing: ExitStack) -> Runner:
    format_ = format_named(discover_formats(), manifest.format)
    if missing := missing_requirements(format_.requirements):
        raise RuntimeAbsentError(
            f"Loading {manifest.variant} needs packages that are not installed: {', '.join(missing)}.",
            remedy=f"Run `{install_command(format_)}`." if format_.extra else "",
        )
    return closing.enter_context(format_.open(folder / manifest.filename, manifest.interface))


def bind_inputs(data: Any, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Turn a caller's data into arrays by input name, with the declared dtypes.

    Numbers are cast only where nothing of their value is lost, or from one floating-point type to another.

    Raises:
        VerificationError: A name or a count does not fit, or a cast would lose values.
    """
    named = _named(data, inputs)
    unknown = [name for name in named if name not in {spec.name for spec in inputs}]
    missing = [spec.name for spec in inputs if spec.name not in named]
    if unknown or missing:
        raise VerificationError(
            f"The model takes {', '.join(spec.name for spec in inputs)}; "
            f"it was given {', '.join(map(str, named)) or 'nothing'}.",
            remedy="Give a mapping from each input's name to an array.",
        )
    return {spec.name: _cast(named[spec.name], spec) for spec in inputs}


def _named(data: Any, inputs: Sequence[TensorSpec]) -> Mapping[str, Any]:
    names = [spec.name for spec in inputs]
    if hasattr(data, "columns") and hasattr(data, "to_numpy"):
        if set(map(str, data.columns)) == set(names):
            return {str(column): _column(data[column]) for column in data.columns}
        if len(names) == 1:
            return {names[0]: data.to_numpy()}
        return {str(column): _column(data[column]) for column in data.columns}
    if isinstance(data, Mapping):
        # Of a single input people seldom know the name that a converter gave it.
        if len(names) == 1 and len(data) == 1 and names[0] not in data:
            return {names[0]: next(iter(data.values()))}
        return {str(name): value for name, value in data.items()}
    if len(names) == 1:
        return {names[0]: data}
    if isinstance(data, tuple) and len(data) == len(names):
        return dict(zip(names, data, strict=True))
    raise VerificationError(
        f"The model takes {len(names)} inputs ({', '.join(names)}), and was given one {type(data).__name__}.",
        remedy="Give a mapping from each input's name to an array.",
    )


def _column(column: Any) -> Any:
    """A column of numbers as an array; a column of lists as one array of all of them."""
    values = column.to_numpy()
    return np.asarray(list(values)) if values.dtype == object else values


def _cast(value: Any, spec: TensorSpec) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise VerificationError(f"Input {spec.name} is ragged: {error}.") from error
    if array.dtype.name == spec.dtype:
        return array
    try:
        wanted = np.dtype(spec.dtype)
    except TypeError:
        return array  # a dtype that NumPy does not have: the runner knows what to do
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise VerificationError(f"Input {spec.name} takes {spec.dtype}, and was given {array.dtype}.")
    with np.errstate(invalid="ignore", over="ignore"):
        result = array.astype(wanted)
    both_float = array.dtype.kind == "f" and wanted.kind == "f"
    if not both_float and not np.array_equal(result.astype(array.dtype), array):
        raise VerificationError(f"Input {spec.name} takes {spec.dtype}; {array.dtype} values would be changed by that.")
    return result
