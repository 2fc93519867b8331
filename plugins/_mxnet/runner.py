"""A model run by MXNet itself, or, where that is not to be had, its translation run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import SourceError, VerificationError
from registry_export.format import Array, Runner, Tensors
from registry_export_plugins._inputs import in_order
from registry_export_plugins._mxnet.files import parameters_of, read_parameters, read_symbol
from registry_export_plugins._mxnet.signature import distinct, input_names, input_specs


class MXNetRunner:
    """Runs a symbol on the CPU. Half precision is computed as float: MXNet has no layers of it there."""

    def __init__(self, path: Path, interface: Interface) -> None:
        import mxnet

        parameters = parameters_of(path)
        if parameters is None:
            raise SourceError(f"{path.name} has no file of parameters beside it.")
        self._mxnet = mxnet
        symbol, known = read_symbol(path), read_parameters(parameters)
        self._keys = input_names(symbol, known)
        specs = input_specs(symbol, known, self._keys, interface)
        given = [spec.name for spec in interface.inputs]
        names = given if len(given) == len(specs) and all(given) and set(given) != set(self._keys) else self._keys
        pairs = zip(names, specs, strict=True)
        self._interface = Interface(tuple(TensorSpec(name, spec.dtype, spec.shape) for name, spec in pairs))
        self._symbol = mxnet.sym.load(str(path))
        loaded = mxnet.nd.load(str(parameters))
        self._parameters = {key.partition(":")[2] or key: _single(array) for key, array in loaded.items()}

    @property
    def interface(self) -> Interface:
        """Inputs as the symbol has them; outputs are known after a call."""
        return self._interface

    @property
    def runtime(self) -> str:
        """What runs it."""
        return f"mxnet {self._mxnet.__version__}"

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """Run once.

        Raises:
            VerificationError: An input is missing or unknown, or MXNet fails on them.
        """
        arrays = dict(zip(self._keys, in_order(inputs, self._interface.inputs), strict=True))
        halves = any(array.dtype == np.float16 for array in arrays.values())
        try:
            outputs = [output.asnumpy() for output in self._forward(arrays)]
        except self._mxnet.base.MXNetError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise VerificationError(f"MXNet fails on these inputs: {lines[-1] if lines else error}") from error
        outputs = [out.astype(np.float16) if halves and out.dtype == np.float32 else out for out in outputs]
        return dict(zip(distinct(self._symbol.list_outputs()), outputs, strict=True))

    def _forward(self, inputs: Tensors) -> Any:
        """Bind to these sizes and run. What training alone needs, labels, is zero."""
        nd = self._mxnet.nd
        feed = {key: _single(nd.array(array, dtype=array.dtype)) for key, array in inputs.items()} | self._parameters
        states = {name: feed[name] for name in self._symbol.list_auxiliary_states()}
        arguments = self._symbol.list_arguments()
        sizes = {name: feed[name].shape for name in arguments if name in feed}
        shapes, _, _ = self._symbol.infer_shape_partial(**sizes)
        known = dict(zip(arguments, shapes, strict=True))
        values = {name: feed[name] if name in feed else nd.zeros(known[name]) for name in arguments}
        executor = self._symbol.bind(self._mxnet.cpu(), values, grad_req="null", aux_states=states)
        return executor.forward(is_train=False)


def _single(array: Any) -> Any:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def translated(path: Path, interface: Interface) -> Runner:
    """Open the translation, which every export is made from as well: agreement with it says nothing of MXNet."""
    from registry_export_plugins._onnx.runner import OnnxRunner

    class TranslatedRunner(OnnxRunner):
        stand_in = (
            "MXNet cannot be run here, so the export was compared with a translation to ONNX that it was made from "
            "too: let the worker create MXNet's environment (uv, a network, Linux on x86-64)"
        )

        @property
        def runtime(self) -> str:
            return f"{super().runtime}, on a translation to ONNX made without MXNet"

    return TranslatedRunner(path, interface)
