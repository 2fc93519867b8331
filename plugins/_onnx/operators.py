"""Naming operators of PyTorch that have no ONNX form: which, and where in the model they are called."""

from __future__ import annotations

import re
from typing import Any

import torch

from registry_export.errors import UnsupportedModelError
from registry_export_plugins._torch.calls import first_line

_MISSING = re.compile(
    r"No ONNX function found for <OpOverload\(op='([\w.]+)'"
    r"|Exporting the operator '([\w:]+)' to ONNX"
    r"|unrecognized namespace '?([\w:]+)"
)
_BUILT_IN = ("aten", "prim", "prims", "quantized")
_MOST_PLACES = 3

NO_FORM = "there is no ONNX form of"


def missing_operator(error: BaseException) -> str:
    """Return the operator for which an exporter has no translation (`aten.linalg_inv`); empty when that is not why."""
    found = _MISSING.search(str(error))
    return next((name for name in found.groups() if name), "").replace("::", ".") if found else ""


def reason_of(error: Exception) -> str:
    """Say in one line why an exporter failed."""
    operator = missing_operator(error)
    return f"{NO_FORM} {operator}" if operator else first_line(error)


def refused_operator(error: Exception, program: torch.export.ExportedProgram) -> UnsupportedModelError | None:
    """Name the operator that stopped the exporter and the modules that call it; None when something else did.

    Args:
        error: What the exporter raised.
        program: What it was to export.
    """
    operator = missing_operator(error)
    if not operator:
        return None
    places = _places(operator, program) or _places(operator, _decomposed(program))
    called = f", called in {', '.join(places)}" if places else ""
    return UnsupportedModelError(f"{NO_FORM} {operator}{called}", remedy=remedy_for(operator))


def remedy_for(operator: str) -> str:
    """Say what can be done about an operator without an ONNX form."""
    if operator.partition(".")[0] in _BUILT_IN:
        return "Write the operator in others, or export torchscript or exported_program."
    return (
        f"Give the target custom_translation_table, which says what {operator} is in ONNX, and "
        "custom_ops_library where that is an operator of your own; or export torchscript or exported_program."
    )


def _places(operator: str, program: torch.export.ExportedProgram | None) -> list[str]:
    """Return the paths and classes of the modules in whose `forward` an operator is called."""
    found: dict[str, None] = {}
    for module in program.graph_module.modules() if program is not None else ():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            if node.op == "call_function" and _name_of(node.target) == operator:
                found.setdefault(_place(node), None)
    named = [place for place in found if place]
    return [*named[:_MOST_PLACES], *(["others"] if len(named) > _MOST_PLACES else [])]


def _name_of(target: Any) -> str:
    return target._schema.name.replace("::", ".") if isinstance(target, torch._ops.OpOverload) else ""


def _place(node: torch.fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path, class_ = list(stack.values())[-1] if stack else ("", "")
    name = class_ if isinstance(class_, str) else class_.__qualname__
    path = path.removeprefix("wrapped").removeprefix(".")
    return f"{path or 'the model itself'} ({name.rpartition('.')[2]})" if name else ""


def _decomposed(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram | None:
    try:
        return program.run_decompositions()
    except Exception:  # noqa: BLE001  only a name is at stake, and the error in hand is the one to report
        return None
