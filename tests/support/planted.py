"""A light source and a target that goes wrong on request; installed for real, by entry points.

The model is `y = scale * x + shift`, `z = -x`, in a NumPy archive; nothing heavier than NumPy is imported.
"""

from __future__ import annotations

import ctypes
import os
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from registry_export.entities import Attempt, Description, Interface, TensorSpec
from registry_export.errors import RuntimeAbsentError, UnsupportedModelError
from registry_export.format import DYNAMIC_DIMENSIONS, Conversion, ConversionResult, Intermediate, Option, Toolchain

NUMPY = Toolchain("planted", ("numpy",))
LATE = Toolchain("planted_late", ("numpy",), exercise="tests.support.planted:start_late")
KIND = "planted_numbers"
INTERFACE = Interface(
    (TensorSpec("x", "float32", ("batch", 3)),),
    (TensorSpec("y", "float32", ("batch", 3)), TensorSpec("z", "float32", ("batch", 3))),
)

FAULTS = (
    "none",
    "crash",
    "hang",
    "memory",
    "refuse",
    "explode",
    "nothing",
    "unreadable",
    "input_changed",
    "link",
    "wrong",
    "nan",
    "missing",
    "extra",
    "shape",
    "dtype",
    "swapped",
    "first_row_only",
    "crash_at_run",
    "hang_at_run",
    "memory_at_run",
    "fails_at_one",
    "absent",
    "elsewhere",
    "drifts",
    "static",
    "static_nowhere",
    "held",
)


def install(folder: Path) -> str:
    """Make a distribution with the entry points, as pip would; returns what PYTHONPATH must hold."""
    info = folder / "planted_formats-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted-formats\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[registry_export.formats]\n"
        "planted_source = tests.support.planted:Source\n"
        "planted = tests.support.planted:Planted\n"
        "planted_next = tests.support.planted:Next\n"
        "planted_between = tests.support.planted:Between\n"
        "planted_after = tests.support.planted:After\n"
        "planted_late = tests.support.planted:Late\n"
    )
    return os.pathsep.join([str(folder), str(Path.cwd())])


def switch(name: str, on: bool = True) -> None:
    """Change what children see: `accelerator` is plugged in, runtimes have `drifted`, parents start `late`.

    Conversions to `planted_late`, and those with the fault `held`, are `held`.
    """
    flag = _flag(name)
    flag.touch() if on else flag.unlink(missing_ok=True)


def start_late():
    """Keep a warm parent from its start for as long as the switch `late` is on."""
    while _flag("late").exists():
        time.sleep(0.1)


def _flag(name: str) -> Path:
    """The folder of `install` is the first on the children's path."""
    return Path(os.environ["PYTHONPATH"].split(os.pathsep)[0], name)


def save(folder: Path, unstable: bool = False, scale: float = 2.0) -> None:
    """Write a model folder that `Source` recognises."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "planted.npz", scale=np.float32(scale), shift=np.float32(0.5), unstable=unstable)


class _Runner:
    runtime = f"numpy {np.__version__}"
    interface = INTERFACE

    def __init__(self, numbers):
        self._numbers = numbers

    def infer(self, inputs):
        x = np.asarray(inputs["x"])
        noise = np.float32(time.perf_counter() % 1) if self._numbers.get("unstable") else np.float32(0)
        return {"y": x * self._numbers["scale"] + self._numbers["shift"] + noise, "z": -x}

    def intermediates(self, inputs):
        outputs = self.infer(inputs)
        yield Intermediate("scaled", inputs["x"] * self._numbers["scale"], "scale", "mul", ())
        yield Intermediate("y", outputs["y"], "shift", "add", ("scaled",))
        yield Intermediate("z", outputs["z"], "negate", "neg", ())


def _numbers(path: Path):
    with np.load(path) as archive:
        return {name: archive[name][()] for name in archive.files}


class Source:
    name = "planted_source"
    summary = "y = scale * x + shift"
    extra = ""
    requirements = ("numpy",)
    toolchain = NUMPY
    kind = KIND
    filename = "planted.npz"
    options = ()
    conversions = ()
    verified_by = "NumPy"

    def locate(self, folder, flavors):
        path = folder / self.filename
        return path if path.is_file() else None

    def load(self, path, interface):
        return {**_numbers(path), "path": path}

    @contextmanager
    def open(self, path, interface):
        yield _Runner(_numbers(path))

    def describe(self, path):
        return Description(INTERFACE)


def _convert(model, output, request):
    fault = request.options["fault"]
    if fault == "crash":
        ctypes.string_at(0)
    if fault == "hang":
        time.sleep(600)
    if fault == "held":
        _wait_while("held")
    if fault == "memory":
        held = []
        while True:
            held.append(bytearray(os.urandom(1024)) * 1024 * 16)
    if fault == "refuse":
        raise UnsupportedModelError("The operator Foo is not supported.")
    if fault == "explode":
        raise ZeroDivisionError("inside the converter")
    if fault == "nothing":
        return ConversionResult()
    if fault == "input_changed":
        model["path"].write_bytes(b"overwritten")
    if fault == "link":
        output.with_suffix(".link").symlink_to("/etc/hostname")
    if fault == "unreadable":
        output.write_bytes(b"noise")
        return ConversionResult()
    np.savez(output.with_suffix(".npz"), fault=fault, scale=model["scale"], shift=model["shift"])
    output.with_suffix(".npz").rename(output)
    return ConversionResult((Attempt("the only way"),))


def _wait_while(flag):
    until = time.monotonic() + 60
    while _flag(flag).exists() and time.monotonic() < until:
        time.sleep(0.05)


class _Faulty(_Runner):
    def infer(self, inputs):
        outputs = super().infer(inputs)
        fault = str(self._numbers["fault"])
        rows = len(inputs["x"])
        if fault == "crash_at_run":
            ctypes.string_at(0)
        if fault == "hang_at_run":
            time.sleep(600)
        if fault == "memory_at_run":
            np.zeros(2**40)
        if fault == "drifts" and _flag("drifted").exists():
            fault = "wrong"
        if fault == "fails_at_one" and rows == 1:
            raise ValueError("a batch of one")
        return _spoiled(fault, outputs)


def _spoiled(fault, outputs):
    y, z = outputs["y"], outputs["z"]
    if fault == "first_row_only":
        y = np.repeat(y[:1], len(y), axis=0)
    spoiled = {
        "wrong": {"y": y * np.float32(1.01), "z": z},
        "nan": {"y": np.where(y > y.min(), y, np.float32(np.nan)), "z": z},
        "missing": {"y": y},
        "extra": {"y": y, "z": z, "w": z},
        "shape": {"y": y[None], "z": z},
        "dtype": {"y": y.astype(np.float64), "z": z},
        "swapped": {"y": z, "z": y},
    }
    return spoiled.get(fault, {"y": y, "z": z})


class Planted(Source):
    name = "planted"
    kind = ""
    filename = "model.planted"
    options = (Option("fault", str, "none", "{value}", choices=FAULTS), DYNAMIC_DIMENSIONS)
    conversions = (Conversion(KIND, _convert, NUMPY),)

    def locate(self, folder, flavors):
        return None

    @contextmanager
    def open(self, path, interface):
        numbers = _numbers(path)
        if numbers["fault"] == "absent":
            raise RuntimeAbsentError("No accelerator of generation 9 is here.")
        if numbers["fault"] == "elsewhere" and not _flag("accelerator").exists():
            raise RuntimeAbsentError("no accelerator of generation 9")
        yield _Faulty(numbers)

    def describe(self, path):
        if not zipfile.is_zipfile(path):
            raise ValueError("not an archive")
        sizes = {"static": 3, "static_nowhere": 77}
        batch = sizes.get(str(_numbers(path)["fault"]), "batch")
        specs = [TensorSpec(s.name, s.dtype, (batch, 3)) for s in (*INTERFACE.inputs, *INTERFACE.outputs)]
        told = {"fault": str(_numbers(path)["fault"])}
        return Description(Interface(tuple(specs[:1]), tuple(specs[1:])), format_version="1", details=told)

    def runs_here(self, description):
        """Promise too much of what is `absent`."""
        if description.details["fault"] == "elsewhere" and not _flag("accelerator").exists():
            return "no accelerator of generation 9"
        return ""


def _refuse_unless_second(model, output, request):
    raise UnsupportedModelError("The first way is closed.")


def _second_way(model, output, request):
    np.savez(output.with_suffix(".npz"), fault="none", scale=model["scale"], shift=model["shift"])
    output.with_suffix(".npz").rename(output)
    return ConversionResult(notes=("The second way was taken.",))


class Next(Planted):
    """Its cheapest edge always refuses; the next one works."""

    name = "planted_next"
    options = ()
    conversions = (
        Conversion(KIND, _refuse_unless_second, NUMPY, cost=1.0, label="first"),
        Conversion(KIND, _second_way, NUMPY, cost=2.0, label="second"),
    )


BETWEEN = "planted_numbers_between"


class Between(Planted):
    """An intermediate on the way to `After`."""

    name = "planted_between"
    kind = BETWEEN


def _convert_after(model, output, request):
    fault = request.options["fault"].removesuffix("_before")
    np.savez(output.with_suffix(".npz"), fault=fault, scale=model["scale"], shift=model["shift"])
    output.with_suffix(".npz").rename(output)
    return ConversionResult()


def _asked_before(options):
    return {"fault": "wrong" if options["fault"] == "wrong_before" else "none"}


class After(Planted):
    """The end of a path of two hops; `wrong_before` plants the fault in the first of them."""

    name = "planted_after"
    options = (Option("fault", str, "none", "{value}", choices=(*FAULTS, "wrong_before")),)
    conversions = (Conversion(BETWEEN, _convert_after, NUMPY, intermediate=_asked_before),)


def _held_way(model, output, request):
    output.with_suffix(".begun").write_text("what a conversion leaves that does not end")
    while _flag("held").exists():
        time.sleep(0.05)
    output.with_suffix(".begun").unlink()
    return _second_way(model, output, request)


class Late(Planted):
    """Its toolchain takes as long to start as a test wants."""

    name = "planted_late"
    options = ()
    conversions = (Conversion(KIND, _held_way, LATE),)
