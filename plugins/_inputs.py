"""What every runner checks before it runs: that it was given exactly its inputs."""

from __future__ import annotations

from collections.abc import Sequence

from registry_export.entities import TensorSpec
from registry_export.errors import VerificationError
from registry_export.format import Array, Tensors


def in_order(inputs: Tensors, specs: Sequence[TensorSpec]) -> list[Array]:
    """Return one array per input, in the order of the interface.

    Raises:
        VerificationError: An input is missing, or one was given that the model does not have.
    """
    names = [spec.name for spec in specs]
    missing = [name for name in names if name not in inputs]
    unknown = [name for name in inputs if name not in names]
    if missing or unknown:
        lacks = f"lacks {', '.join(missing)}" if missing else ""
        extra = f"has no input {', '.join(unknown)}" if unknown else ""
        raise VerificationError(
            f"The call {' and the model '.join(part for part in (lacks, extra) if part)}."
            if missing
            else f"The model {extra}.",
            remedy=f"Its inputs are {', '.join(names)}.",
        )
    return [inputs[name] for name in names]
