"""The options of a target, and those that read the same in every format that has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from registry_export.entities import OptionValue
from registry_export.model_setup import PRUNING as _PRUNING
from registry_export.model_setup import Pruning


@dataclass(frozen=True)
class Option:
    """One option of a target.

    Attributes:
        name: As a user types it.
        type: `int`, `float`, `bool`, `str`, or `dict` (`dynamic_dimensions`, and what has `parts`).
        default: Used when the user says nothing; None means that the format decides.
        short: The option's short form in a variant, with `{value}` for the value (`opset{value}`).
        choices: The only values allowed; empty for any.
        lacks: A value that other formats have and this one has not -> why.
        minimum: Smallest number allowed.
        maximum: Largest number allowed.
        pattern: Regular expression that a whole text must match; empty for any text.
        form: What `pattern` matches, in words with an example, for refusals and `registry-export formats`.
        help: One line for `registry-export formats`.
        code: Whether the value names code, as `package.module:NAME` or by a file's path: what is exported
            depends on its content too.
        parts: Of a mapping with fixed keys, what each of them is; all of them must be given.
    """

    name: str
    type: type
    default: OptionValue
    short: str
    choices: tuple[OptionValue, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    pattern: str = ""
    form: str = ""
    help: str = ""
    code: bool = False
    parts: tuple[Option, ...] = ()
    lacks: Mapping[str, str] = field(default_factory=dict)


DYNAMIC_DIMENSIONS = Option(
    name="dynamic_dimensions",
    type=dict,
    default=None,
    short="dyn-{value}",
    help="input name -> axes that may vary, beyond the batch and what the signature says",
)
"""The option that every format with dynamic shapes declares, so that it reads the same everywhere."""


def dimensions_of(options: Mapping[str, OptionValue]) -> dict[str, Mapping[str, str]]:
    """Return the dimensions that a target's options ask to be dynamic: input name -> axis -> name."""
    asked = options.get(DYNAMIC_DIMENSIONS.name)
    pairs = asked.items() if isinstance(asked, Mapping) else ()
    return {name: axes for name, axes in pairs if isinstance(axes, Mapping)}


PRUNING = Option(
    name=_PRUNING,
    type=dict,
    default=None,
    short="{value}",
    help="of a PyTorch checkpoint: the share of its weights that is made zero before the export",
    parts=(
        Option("method", str, None, "{value}", ("l1_unstructured", "ln_structured", "global")),
        Option("amount", float, None, "{value}", minimum=0.01, maximum=0.99),
    ),
)
"""What is done to the checkpoint, and not by a format: every target takes it, and none declares it."""


def pruning_of(options: Mapping[str, OptionValue]) -> Pruning | None:
    """Return what a target's options ask to be done to the weights; None: nothing."""
    asked = options.get(PRUNING.name)
    return Pruning(str(asked["method"]), float(str(asked["amount"]))) if isinstance(asked, Mapping) else None


def precision_option(*choices: str, default: str = "fp32", lacks: Mapping[str, str] | None = None) -> Option:
    """Declare `precision`, as every format that has several does.

    Args:
        choices: Of `fp32`, `fp16`, `bf16`, `int8`.
        default: The one that a variant does not name.
        lacks: Why the format has not one of the others, as the end of a sentence.
    """
    told = "of the weights and the arithmetic"
    return Option("precision", str, default, "{value}", choices, help=told, lacks=lacks or {})


def quantization_option(*choices: str, default: str = "static") -> Option:
    """Declare `quantization`, which says how `precision: int8` is reached; it means nothing with another precision.

    Args:
        choices: Of `static` (activations calibrated on samples), `dynamic` (activations measured at run
            time), `weight_only` (activations stay floats).
        default: The one that a variant does not name.
    """
    return Option("quantization", str, default, "{value}", choices, help="how int8 is reached")
