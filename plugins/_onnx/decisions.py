"""Which sides the `If` nodes of an ONNX model take while it runs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

_FOLDER_OF_WEIGHTS = "session.model_external_initializers_file_folder_path"
_ONLY_ERRORS = 3


class Decisions:
    """Runs a model for the conditions of its `If` nodes alone.

    Nodes inside of branches, loops and functions are not seen.

    Attributes:
        taken: By the node's name: the sides taken so far.
    """

    def __init__(self, path: Path) -> None:
        self.taken: dict[str, set[bool]] = {}
        model = onnx.load(str(path), load_external_data=False)
        self._conditions = {
            node.name or node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "If"
        }
        self._session: Any = None
        if self._conditions:
            self._session = _session(model, sorted(set(self._conditions.values())), path.parent)

    def note(self, feed: dict[str, Any]) -> None:
        """Run once and note the sides taken."""
        if self._session is None:
            return
        names = [output.name for output in self._session.get_outputs()]
        values = dict(zip(names, self._session.run_with_ort_values(names, feed), strict=True))
        for node, condition in self._conditions.items():
            side = bool(np.asarray(values[condition].numpy()).all())
            self.taken.setdefault(f"the If node {node}", set()).add(side)


def _session(model: onnx.ModelProto, conditions: list[str], folder: Path) -> Any:
    asking = copy.deepcopy(model)
    del asking.graph.output[:]
    for name in conditions:
        asking.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ONLY_ERRORS
    options.add_session_config_entry(_FOLDER_OF_WEIGHTS, str(folder))
    return onnxruntime.InferenceSession(asking.SerializeToString(), options, providers=["CPUExecutionProvider"])
