"""What one source of the contract suite is."""

from __future__ import annotations

from dataclasses import dataclass

from registry_export.format import NO_SETUP, ModelSetup, Toolchain

TORCH = Toolchain("build-torch", ("torch", "mlflow.pytorch"))
TENSORFLOW = Toolchain("build-tensorflow", ("tensorflow", "keras", "mlflow.tensorflow", "mlflow.keras"))


@dataclass(frozen=True)
class Source:
    """A model to be made, and what is expected of it.

    Attributes:
        format: The format that must recognise it.
        toolchain: What its builder needs.
        builder: `package.module:function`; takes `{"folder": ...}` and leaves there what a version's folder holds.
        setup: What a rule would say of it.
        samples: Whether the version has no input example, so that a rule's samples are used: the builder
            leaves them beside the folder, as `<folder>.npz`.
        static: Why its batch is fixed; empty where it is dynamic, as it should be.
    """

    format: str
    toolchain: Toolchain
    builder: str
    setup: ModelSetup = NO_SETUP
    samples: bool = False
    static: str = ""
