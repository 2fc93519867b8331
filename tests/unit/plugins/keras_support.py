"""Runs a Keras sample through its own runner once, and compares what a format makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from registry_export.entities import Interface
from registry_export.format import ConversionRequest
from registry_export_plugins.keras import Keras
from tests.keras_models import SAMPLES, Sample

if TYPE_CHECKING:
    from pathlib import Path

    from registry_export.format import Runner

BATCHES = (2, 1, 5)


@dataclass
class Reference:
    """A saved model with what it computes at several batch sizes."""

    sample: Sample
    path: Path
    interface: Interface
    expected: dict[int, dict[str, np.ndarray]]

    def request(self, work: Path) -> ConversionRequest:
        """Ask for a conversion with the batch open, traced with two rows."""
        work.mkdir()
        return ConversionRequest({}, self.interface, self.sample.inputs(2), work)

    def check(self, runner: Runner, batches: tuple[int, ...] = BATCHES) -> None:
        """Compare names, order, shapes, types and numbers at every batch size."""
        for batch in batches:
            actual = runner.infer(self.sample.inputs(batch))
            assert list(actual) == list(self.expected[batch])
            for name, expected in self.expected[batch].items():
                assert actual[name].shape == expected.shape, (batch, name)
                assert actual[name].dtype == expected.dtype, (batch, name)
                np.testing.assert_allclose(actual[name], expected, rtol=1e-3, atol=1e-5)


def reference(name: str, folder: Path) -> Reference:
    """Save a sample and run it with Keras."""
    sample = SAMPLES[name]()
    path = sample.save(folder)
    with Keras().open(path, Interface(inputs=())) as runner:
        expected = {batch: runner.infer(sample.inputs(batch)) for batch in BATCHES}
        return Reference(sample, path, runner.interface, expected)
