"""MXNet's `-symbol.json` and `-0000.params`, read without MXNet: it is retired, and installs beside nothing current.

A source only. The symbol is translated to ONNX operator by operator, and that ONNX file is what is converted. The
source's own answers come from MXNet in an environment of its own, so that a fault of the translation is seen.

Source: https://mxnet.apache.org/versions/1.9.1/
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry_export.entities import Description, Interface
from registry_export.format import ONNX_MODEL, Conversion, Held, Inside, Option, PythonEnvironment, Runner, Toolchain
from registry_export_plugins._toolchains import ONNX

MXNET = Toolchain(
    name="mxnet",
    modules=("mxnet",),
    # oneDNN's recurrent operator crashes in some processes.
    environment={"MXNET_USE_MKLDNN_RNN": "0", "MXNET_STORAGE_FALLBACK_LOG_VERBOSE": "0"},
    python=PythonEnvironment("3.11", ("mxnet==1.9.1", "numpy==1.23.5")),
    fallback=ONNX,
)


class MXNet:
    """The format `mxnet`; see `registry_export.format.Format` for what its members mean."""

    name = "mxnet"
    summary = "MXNet symbol and parameters (-symbol.json, .params), read without MXNet"
    extra = "mxnet"
    requirements = ("onnx", "onnxruntime")
    toolchain = MXNET
    kind = ONNX_MODEL
    filename = "model-symbol.json"
    options: tuple[Option, ...] = ()
    conversions: tuple[Conversion, ...] = ()
    verified_by = "MXNet 1.9.1 in an environment of its own"

    def locate(self, folder: Path, flavors: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """Find the only symbol that has parameters beside it: in a plain folder, or where a flavor `mxnet` says."""
        from registry_export_plugins._mxnet.files import find_symbol

        if flavors and "mxnet" not in flavors and "gluon" not in flavors:
            return None
        flavor = flavors.get("mxnet") or flavors.get("gluon") or {}
        places = [folder / str(flavor["data"])] if flavor.get("data") else [folder]
        if flavors:  # MLflow's flavor `gluon`, which version 2 dropped, wrote into `data`
            places.append(folder / "data")
        return next((found for place in places if (found := find_symbol(place)) is not None), None)

    def load(self, path: Path, interface: Interface) -> Path:
        """Translate the model and return the ONNX file's path, in a folder of its own for temporary files."""
        import onnx

        from registry_export_plugins._mxnet.translate import to_onnx

        made = Path(tempfile.mkdtemp(prefix="mxnet-")) / "model.onnx"
        onnx.save(to_onnx(path, interface), str(made))
        return made

    @contextmanager
    def open(self, path: Path, interface: Interface) -> Iterator[Runner]:
        """Load the model into MXNet where that is at hand, else its translation into ONNX Runtime."""
        from registry_export_plugins._mxnet.runner import MXNetRunner, translated

        if "mxnet" in sys.modules:
            yield MXNetRunner(path, interface)
        else:
            yield translated(self.load(path, interface), interface)

    def describe(self, path: Path) -> Description:
        """Read inputs, outputs and MXNet's version from the files."""
        from registry_export_plugins._mxnet.files import parameters_of, read_parameters, read_symbol
        from registry_export_plugins._mxnet.translate import precision_of, to_onnx
        from registry_export_plugins._onnx.files import interface_of

        symbol, parameters = read_symbol(path), parameters_of(path)
        return Description(
            interface=interface_of(to_onnx(path, Interface(()))),
            format_version=symbol.version or None,
            precision=precision_of(read_parameters(parameters)) if parameters else "fp32",
            details={"operators": str(sum(node.op != "null" for node in symbol.nodes))},
        )

    def inspect(self, path: Path) -> Inside:
        """Read the parameters and the symbol's nodes, without MXNet."""
        from registry_export_plugins._mxnet.files import parameters_of, read_parameters, read_symbol

        parameters = parameters_of(path)
        held = read_parameters(parameters) if parameters else {}
        calls = Counter(node.op for node in read_symbol(path).nodes if node.op != "null")
        return Inside((Held(name, array) for name, array in held.items()), calls)
