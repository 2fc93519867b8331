"""The GPUs that an engine is built for, by compute capability.

Sources: https://developer.nvidia.com/cuda-gpus,
https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/advanced.html
"""

from __future__ import annotations

from typing import Any

from registry_export.entities import OptionValue
from registry_export.errors import ConversionError
from registry_export_plugins._tensorrt import cuda
from registry_export_plugins._tensorrt.flavour import product, tensorrt


def nameable_devices() -> tuple[str, ...]:
    """Return what the builder can build for by name, as `sm89`; empty where it knows the GPU that is here alone."""
    capabilities = getattr(tensorrt(), "ComputeCapability", None)
    members = getattr(capabilities, "__members__", {})
    names = [name.lower() for name in members if name.startswith("SM")]
    return tuple(sorted(names, key=lambda name: int(name[2:])))


def chosen_devices(option: OptionValue) -> tuple[str, ...]:
    """Read the option `device`; empty where nothing is asked for.

    Raises:
        ConversionError: The builder cannot build for one of them; lists those that it can.
    """
    wanted = tuple(dict.fromkeys(str(option).split("+"))) if option else ()
    choices = nameable_devices()
    if choices or not wanted:
        unknown = [name for name in wanted if name not in choices]
        source = "it builds for"
    else:
        absent = cuda.problem()
        choices = () if absent else (cuda.compute_capability(),)
        unknown = [name for name in wanted if name not in choices]
        source = "it builds for the GPU that is here alone:"
    if unknown:
        raise ConversionError(
            f"{product()} cannot build for {', '.join(unknown)}; {source} {', '.join(choices) or 'there is none'}.",
            remedy="Choose among these, or leave the option device out." if choices else "",
        )
    return wanted


def set_devices(config: Any, devices: tuple[str, ...]) -> None:
    """Tell a builder's configuration what to build for; nothing where the builder chooses itself."""
    if not devices or not nameable_devices():
        return
    config.num_compute_capabilities = len(devices)
    for index, name in enumerate(devices):
        config.set_compute_capability(getattr(tensorrt().ComputeCapability, name.upper()), index)
