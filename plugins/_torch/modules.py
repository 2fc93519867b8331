"""PyTorch modules as the kind `torch_module` promises them, and what runs them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from registry_export.entities import Interface, TensorSpec
from registry_export.errors import SourceError, VerificationError
from registry_export.format import Array, Intermediate, ModelSetup, Tensors
from registry_export_plugins._inputs import in_order
from registry_export_plugins._torch.caching import cached_decoder
from registry_export_plugins._torch.calls import Binding, bind, flatten, output_names, parameters_of
from registry_export_plugins._torch.decisions import Taken, recorded
from registry_export_plugins._torch.otherwise import variants
from registry_export_plugins._torch.pruning import Pruned

_NO_NUMPY = (
    torch.bfloat16,
    torch.complex32,
    *(getattr(torch, name) for name in dir(torch) if name.startswith("float8_")),
)


class TorchAdapter(torch.nn.Module):
    """A module that takes its inputs positionally, in order, and returns a flat tuple of tensors.

    NumPy has no bfloat16: a module that computes in it takes and returns float32 here.

    Attributes:
        wrapped: The module as its author wrote it.
    """

    def __init__(self, module: torch.nn.Module, binding: Binding) -> None:
        super().__init__()
        self.wrapped = module
        self._binding = binding
        self._bfloat16 = is_bfloat16(module)
        self.training = False  # not .eval(), which a loaded torch.export program refuses

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs, in order."""
        return self._binding.inputs

    def call(self, tensors: Sequence[torch.Tensor]) -> Any:
        """Call the wrapped module and return what it returns."""
        if self._bfloat16:
            tensors = [t.to(torch.bfloat16) if t.dtype == torch.float32 else t for t in tensors]
        args, kwargs = self._binding.arguments(tensors)
        return self.wrapped(*args, **kwargs)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run on one tensor per input and return one tensor per output."""
        leaves = flatten(self.call(tensors)).tensors
        return tuple(t.to(torch.float32) if t.dtype == torch.bfloat16 else t for t in leaves)


def is_bfloat16(module: torch.nn.Module) -> bool:
    """Say whether every floating parameter of a module is bfloat16."""
    dtypes = {p.dtype for p in module.parameters() if p.is_floating_point()}
    return dtypes == {torch.bfloat16}


def adapt(module: torch.nn.Module, interface: Interface) -> TorchAdapter:
    """Wrap a module; its inputs are bound to `forward` as `_torch.calls.bind` does.

    A causal language model gets its key-value cache as further inputs and outputs.
    """
    decoder = cached_decoder(module, interface)
    if decoder is not None:
        module, binding = decoder, Binding(decoder.specs, tuple(range(len(decoder.specs))))
    else:
        binding = bind(module, interface)
    named: type[TorchAdapter] = with_argument_names(TorchAdapter, [spec.name for spec in binding.inputs])
    return named(module, binding)


def adapt_wrapped(module: torch.nn.Module, interface: Interface, setup: ModelSetup) -> TorchAdapter:
    """Put the rule's wrapper around a module, and adapt what comes out.

    A wrapper's own parameters name the inputs, unless they are those of the signature; where there
    are as many, dtypes and shapes are the signature's.

    Raises:
        SourceError: The wrapper fails, or returns no module.
    """
    wrapped = setup.wrap(module)
    if not isinstance(wrapped, torch.nn.Module):
        raise SourceError(
            f"wrapper {setup.wrapper} returns a {type(wrapped).__name__}, not a torch.nn.Module.",
            remedy="Let it return a module whose forward() calls the model.",
        )
    if setup.wrapper:
        wrapped.eval()
    return adapt(wrapped, interface_of_wrapper(wrapped, interface) if setup.wrapper else interface)


def interface_of_wrapper(module: torch.nn.Module, interface: Interface) -> Interface:
    """Return what a wrapper is called with: the signature's dtypes and shapes under the wrapper's names."""
    parameters = parameters_of(module)
    if any(p.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD) for p in parameters):
        return Interface(interface.inputs)
    names = [p.name for p in parameters if p.default is inspect.Parameter.empty]
    declared = {spec.name for spec in interface.inputs}
    if declared and declared <= {p.name for p in parameters}:
        return Interface(interface.inputs)
    if len(names) != len(interface.inputs):
        return Interface(inputs=())
    return Interface(tuple(replace(spec, name=name) for spec, name in zip(interface.inputs, names, strict=True)))


def with_argument_names(base: type[Any], names: Sequence[str]) -> type[Any]:
    """Derive a module class whose `forward(*tensors)` shows other argument names.

    Tracers and exporters name a graph's inputs after the parameters of `forward`.
    """

    def forward(self: Any, *tensors: torch.Tensor) -> Any:
        return base.forward(self, *tensors)

    arguments = [name if name.isidentifier() else f"input_{i}" for i, name in enumerate(names)]
    if "self" not in arguments and len(set(arguments)) == len(arguments):
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, kind) for name in ("self", *arguments)]
        forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return type(base.__name__, (base,), {"forward": forward})


def to_tensor(array: Array) -> torch.Tensor:
    """Copy an array into a tensor.

    Raises:
        VerificationError: PyTorch has no such dtype.
    """
    try:
        return torch.from_numpy(np.array(array, order="C"))
    except TypeError as error:
        raise VerificationError(f"PyTorch takes no input of dtype {array.dtype}.") from error


def to_array(tensor: torch.Tensor) -> Array:
    """Copy a tensor into an array; bfloat16 and float8 become float32, complex32 becomes complex64, exactly."""
    tensor = tensor.detach().cpu()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.dtype in _NO_NUMPY:
        tensor = tensor.to(torch.complex64 if tensor.is_complex() else torch.float32)
    array: Array = np.array(tensor.resolve_conj().resolve_neg().numpy())
    return array


class TorchRunner:
    """Runs anything that takes tensors in order and returns what a `forward` returns.

    Attributes:
        example: Inputs that the source brings along, by name; None where it has none.
        notes: Sentences on the source that the report shows.
        inside: Whether something of the author's calls the model, and the logged example is that one's.
        module: What `call` belongs to; None where that is a program.
        decisions: The sides that its decisions on data have taken, by place.
        sparsity: The share of its parameters that are zero, where it was pruned.
    """

    def __init__(
        self,
        call: Callable[[Sequence[torch.Tensor]], Any],
        interface: Interface,
        what: str = "torch",
        module: TorchAdapter | None = None,
    ) -> None:
        self.call = call
        self.module = module
        self.decisions: Taken = {}
        self._interface = interface
        self._what = what
        self.example: Mapping[str, Array] | None = None
        self.notes: tuple[str, ...] = ()
        self.inside = False
        self.sparsity: float | None = None

    def tell_pruned(self, pruned: Pruned | None) -> None:
        """Let the report say what was done to the weights."""
        if pruned is not None:
            self.sparsity, self.notes = pruned.sparsity, (*self.notes, pruned.note)

    @property
    def interface(self) -> Interface:
        """Inputs, and outputs where they are known before a call."""
        return self._interface

    @property
    def runtime(self) -> str:
        """What runs it."""
        return f"{self._what} {torch.__version__}"

    def infer(self, inputs: Tensors) -> dict[str, Array]:
        """Run once, without gradients; outputs are named as `_torch.calls.flatten` says.

        Raises:
            VerificationError: An input is missing or unknown, or PyTorch has no such dtype.
        """
        return self._run(inputs, self.call)

    @property
    def variants(self) -> Mapping[str, Callable[[Tensors], dict[str, Array]]]:
        """The same model computed another way, by name."""
        return variants(self._run, self.call, self.module)

    @property
    def precision(self) -> str:
        """What most of the weights are in; empty where they are not known."""
        return precision(self.module) if self.module is not None else ""

    def _run(self, inputs: Tensors, call: Callable[[Sequence[torch.Tensor]], Any]) -> dict[str, Array]:
        tensors = [to_tensor(array) for array in in_order(inputs, self._interface.inputs)]
        with torch.no_grad(), recorded(self.decisions):
            leaves = flatten(call(tensors))
        names = output_names(leaves, self._interface.outputs)
        return {name: to_array(tensor) for name, tensor in zip(names, leaves.tensors, strict=True)}

    def intermediates(self, inputs: Tensors) -> Iterator[Intermediate]:
        """Run once more and yield every tensor on the way; a program shows its own nodes."""
        from registry_export_plugins._torch.intermediates import watched

        tensors = [to_tensor(array) for array in in_order(inputs, self._interface.inputs)]
        own: Callable[[Sequence[torch.Tensor]], Iterator[Intermediate]] | None = getattr(self.call, "watched", None)
        if own is not None:
            return own(tensors)
        return watched(self.call, self.module.wrapped if self.module is not None else None, tensors)


def precision(module: torch.nn.Module) -> str:
    """Name the precision that most of a module's floating weights have."""
    return precision_of((*module.parameters(), *module.buffers()))


def precision_of(tensors: Iterable[Any]) -> str:
    """Name the precision that most floating elements have: `fp32` (float64 included), `fp16` or `bf16`."""
    counts: dict[torch.dtype, int] = {}
    for tensor in tensors:
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel()
    most = max(counts, key=lambda dtype: counts[dtype], default=torch.float32)
    return {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(most, "fp32")
