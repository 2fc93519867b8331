"""The last step of every way into ONNX, whatever the model came from.

First the model as the converter made it is settled: opset, simplification, names, the full check. Then the file is
delivered: in another precision, with its weights beside it, with its custom operators' library.
"""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto

from registry_export.entities import Interface
from registry_export.errors import ConversionError
from registry_export.format import ConversionResult
from registry_export_plugins._onnx.candidates import Taken, Wanted
from registry_export_plugins._onnx.files import external_files, lay, lay_weights, read, read_in_part, size_of, write
from registry_export_plugins._onnx.libraries import lay_library, name_library
from registry_export_plugins._onnx.names import give_names
from registry_export_plugins._onnx.opsets import (
    first_line,
    graphs_of,
    is_heavy,
    opset_of,
    to_opset,
    too_large,
    weight_bytes,
)

_WEIGHTS_APART = 4
"""IR version from which an initializer need not be listed among the inputs."""


def settle_and_deliver(
    made: Path, output: Path, interface: Interface, wanted: Wanted, result: ConversionResult
) -> ConversionResult:
    """Settle and deliver a converter's file. Arguments and errors as for `settle` and `deliver`."""
    plain = wanted.work / "settled" / output.name
    plain.parent.mkdir(parents=True, exist_ok=True)
    apart = is_heavy(size_of(made))
    model = read_in_part(made) if apart else read(made)
    settle(model, plain, interface, wanted, weights=made if apart else None)
    return deliver(plain, output, wanted, result)


def deliver(plain: Path, output: Path, wanted: Wanted, made: ConversionResult) -> ConversionResult:
    """Write the file that was asked for from a settled one.

    Args:
        plain: A settled model in fp32, in a folder of its own.
        output: The file to write; its weights and its library come beside it.
        wanted: Precision, place of the weights, library.
        made: How the settled model came about.

    Raises:
        ConversionError: The precision is out of reach; says what was tried.
    """
    if wanted.precision == "int8":
        plain = _joined(plain, wanted)  # quantizers take the whole
    taken = _in_precision(plain, wanted)
    if wanted.external_data and not external_files(taken.path):
        write(read(taken.path), output, external_data=True)
    elif not wanted.external_data:
        lay(_joined(taken.path, wanted), output, wanted.work)
    else:
        lay(taken.path, output, wanted.work)
    if wanted.library is not None:
        lay_library(wanted.library, output)
    return ConversionResult((*made.attempts, *taken.attempts), (*made.notes, *taken.notes))


def _joined(path: Path, wanted: Wanted) -> Path:
    """Put weights into the file that lie beside it only for the work's sake; a source's files stay as they are."""
    ours = wanted.work != Path() and path.resolve().is_relative_to(wanted.work.resolve())
    if not ours or too_large(size_of(path)) or not external_files(path):
        return path
    whole = wanted.work / "joined" / path.name
    whole.parent.mkdir(exist_ok=True)
    write(read(path), whole)
    return whole


def _in_precision(plain: Path, wanted: Wanted) -> Taken:
    if wanted.precision == "fp16":
        from registry_export_plugins._onnx.half import to_fp16

        return to_fp16(plain, wanted)
    if wanted.precision == "bf16":
        from registry_export_plugins._onnx.half import to_bf16

        return to_bf16(plain, wanted)
    if wanted.precision == "int8":
        from registry_export_plugins._onnx.quantizing import to_int8

        return to_int8(plain, wanted)
    return Taken(plain, (), ())


def settle(
    model: ModelProto, output: Path, interface: Interface, wanted: Wanted, weights: Path | None = None
) -> ModelProto:
    """Bring a model to its opset, simplify it, give it the interface's names, check it and write it.

    Dead ends and identities leave a simplified model, batch norms are folded into the convolutions before them,
    and constants are computed.

    Args:
        model: What a converter made; its inputs and outputs are those of `interface`, in any order if
            their names are the same, else in the same order.
        output: The file to write.
        interface: Names, order and dimension names to give.
        wanted: The opset (None keeps the model's), whether to simplify, the library; no precision yet.
        weights: The file that the model was read from in part; its large weights are beside it, and leave it where
            it lies in the work folder.

    Returns:
        The model as written; large weights may be beside the file.

    Raises:
        ConversionError: The opset is out of reach, or the model is not valid.
    """
    if weights is None and is_heavy(weight_bytes(model)):
        weights = wanted.work / "apart" / output.name
        weights.parent.mkdir(parents=True, exist_ok=True)
        write(model, weights, external_data=True)
        model = read_in_part(weights)
    opset = wanted.opset
    _complete(model, interface)
    if opset is not None:
        model = to_opset(model, opset)
    if wanted.optimize:
        model = _optimized(model)
    _strip(model)
    give_names(model, interface)
    if opset is not None and opset_of(model) != opset:
        raise ConversionError(f"Opset {opset} was asked for, but the file says {opset_of(model)}.")
    if wanted.library is not None:
        name_library(model, wanted.library)
        lay_library(wanted.library, output)
    if weights is not None:
        lay_weights(model, weights, output, wanted.work)
    write(model, output)
    return model


def _complete(model: ModelProto, interface: Interface) -> None:
    """Write what files leave out that run all the same, and that ONNX's checker asks for.

    That is an IR version in which weights need not be inputs too, and the rank of inputs and outputs.
    """
    model.ir_version = max(model.ir_version, _WEIGHTS_APART)
    for values, specs in ((model.graph.input, interface.inputs), (model.graph.output, interface.outputs)):
        by_name = {spec.name: spec for spec in specs}
        for position, value in enumerate(values):
            spec = by_name.get(value.name) or (specs[position] if len(specs) == len(values) else None)
            tensor = value.type.tensor_type
            if spec is None or spec.shape is None or not value.type.HasField("tensor_type") or tensor.HasField("shape"):
                continue
            tensor.shape.SetInParent()
            for size in spec.shape:
                tensor.shape.dim.add(dim_param=size if isinstance(size, str) else None)


def _optimized(model: ModelProto) -> ModelProto:
    import onnxslim

    opset = opset_of(model)
    try:
        slimmed: ModelProto = onnxslim.slim(model)
    except Exception as error:  # onnxslim raises whatever a pattern or a shape inference raises
        raise ConversionError(f"onnxslim could not optimize the model: {first_line(error)}") from error
    return to_opset(slimmed, opset)


def _strip(model: ModelProto) -> None:
    """Take away what tells of the machine that exported, so that equal models are equal files."""
    del model.metadata_props[:]
    for graph in graphs_of(model):
        graph.doc_string = ""
        del graph.metadata_props[:]
        for item in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
            item.doc_string = ""
            del item.metadata_props[:]
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]
