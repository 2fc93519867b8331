"""Formats come in through entry points; a broken one never takes the rest down."""

from __future__ import annotations

import logging
import sys
import textwrap
from importlib.metadata import EntryPoint, distributions
from typing import TYPE_CHECKING

import pytest

from registry_export import discovery
from registry_export.discovery import GROUP, discover_formats, format_named, install_command, missing_requirements
from registry_export.errors import ConfigurationError
from tests.unit import stub_formats

if TYPE_CHECKING:
    from pathlib import Path

MODULE = "tests.unit.stub_formats"


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, GROUP)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for an installed package with a format of its own."""
    monkeypatch.setattr(discovery, "_said", set())  # what another test was warned of
    info = tmp_path / "other_formats-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-formats\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nzoo = zoo_format:Zoo\nonnx = zoo_format:Zoo\n")
    (tmp_path / "zoo_format.py").write_text(
        textwrap.dedent("""
        from tests.unit.stub_formats import StubFormat

        class Zoo(StubFormat):
            name = "zoo"
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "zoo_format", raising=False)
    return tmp_path


def test_formats_are_found_by_name_and_sorted() -> None:
    found = discover_formats([point("torchscript", f"{MODULE}:TorchScript"), point("onnx", f"{MODULE}:Onnx")])
    assert list(found) == ["onnx", "torchscript"]
    assert isinstance(found["onnx"], stub_formats.Onnx)


def test_another_packages_format_comes_in_by_the_same_door(package: Path) -> None:
    found = [entry for info in distributions(path=[str(package)]) for entry in info.entry_points]
    assert list(discover_formats([entry for entry in found if entry.name == "zoo"])) == ["zoo"]


def test_two_packages_with_one_name_leave_the_first_and_name_both(
    package: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = next(info for info in distributions(path=[str(package)])).entry_points["zoo"]
    own = next(info for info in distributions(name="registry-export")).entry_points
    builtin = next(entry for entry in own if entry.group == GROUP)
    thief = EntryPoint(builtin.name, stranger.value, GROUP)._for(stranger.dist)
    honest = EntryPoint(builtin.name, f"{MODULE}:Named", GROUP)._for(builtin.dist)
    stub_formats.Named = type("Named", (stub_formats.StubFormat,), {"name": builtin.name})
    with caplog.at_level(logging.WARNING):
        found = discover_formats([thief, honest])
    assert isinstance(found[builtin.name], stub_formats.Named)
    assert "other-formats" in caplog.text
    assert "registry-export has a format of that name" in caplog.text


def test_the_same_entry_listed_twice_is_no_quarrel(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        discover_formats([point("onnx", f"{MODULE}:Onnx"), point("onnx", f"{MODULE}:Onnx")])
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "source", "reason"),
    [
        ("broken", "raise RuntimeError('no such device')", "RuntimeError: no such device"),
        ("broken", "import a_module_that_is_not_there", "ModuleNotFoundError"),
        ("broken", "", "AttributeError"),
        ("broken", "def Broken(): return object()", "it lacks conversions, describe"),
        ("broken", "class Broken(StubFormat): name = 'other'", "the format 'other'"),
        ("status", "class Broken(StubFormat): name = 'status'", "reserved word, as are trigger"),
        ("model_factory", "class Broken(StubFormat): name = 'model_factory'", "reserved word"),
        ("Big-Name", "class Broken(StubFormat): name = 'Big-Name'", "lower case"),
        ("broken", "class Broken(StubFormat): name = 'broken'; options = (OPTION, OPTION)", "'size' twice"),
        ("broken", "class Broken(StubFormat): name = 'broken'; filename = 'a/b'", "'a/b' cannot be"),
    ],
)
def test_a_broken_plugin_is_left_out_with_its_reason_and_the_others_stay(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    source: str,
    reason: str,
) -> None:
    module = f"plugin_{tmp_path.name}"
    head = "from tests.unit.stub_formats import StubFormat\nfrom registry_export.format import Option\n"
    text = f"{head}OPTION = Option('size', int, 1, 'size')\n{source}\n"
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with caplog.at_level(logging.WARNING):
        found = discover_formats([point(name, f"{module}:Broken"), point("onnx", f"{MODULE}:Onnx")])
    assert list(found) == ["onnx"]
    assert repr(name) in caplog.text
    assert module in caplog.text
    assert reason in caplog.text


def test_an_unknown_format_lists_the_choices() -> None:
    with pytest.raises(ConfigurationError, match=r"unknown format 'onxx'; did you mean .onnx.\? The choices are onnx"):
        format_named(stub_formats.FORMATS, "onxx")


def test_missing_packages_are_found_without_importing_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loud_package").mkdir()
    (tmp_path / "loud_package" / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "loud_package" / "inner.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "blocked_package", None)
    names = ("loud_package", "loud_package.inner", "loud_package.other", "json", "json.nothing", "nowhere.at.all")
    assert missing_requirements((*names, "blocked_package")) == (
        "loud_package.other",
        "json.nothing",
        "nowhere.at.all",
        "blocked_package",
    )


def test_the_remedy_names_the_extra() -> None:
    assert install_command(stub_formats.Onnx()) == "pip install 'registry-export[onnx]'"
