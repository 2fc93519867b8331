from __future__ import annotations

import sys
from pathlib import Path

import pytest

from registry_export.errors import SourceError
from registry_export.model_setup import ModelSetup, code_files, resolve


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "nets_of_a_test.py").write_text(
        "def build():\n    return 'a model'\n"
        "def wrap(model):\n    return f'wrapped {model}'\n"
        "def fail():\n    raise RuntimeError('no luck')\n"
        "def leave():\n    raise SystemExit(3)\n"
        "def nothing(*_):\n    return None\n"
        "class Lightning:\n    @staticmethod\n    def make():\n        return 7\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "nets_of_a_test", raising=False)
    return str(tmp_path)


def setup(nets, **names):
    made = ModelSetup(**names, search=(nets,))
    made.enter()
    return made


def test_a_factory_beside_the_configuration_is_found_and_called(nets):
    assert setup(nets, model_factory="nets_of_a_test:build").build("net.pt") == "a model"
    assert setup(nets, model_factory="nets_of_a_test:Lightning.make").build("net.pt") == 7


def test_a_training_script_without_a_guard_is_named_as_what_ends_the_process(nets):
    Path(nets, "script_of_a_test.py").write_text("import sys\nsys.exit(2)\n")
    with pytest.raises(SourceError, match=r"importing its module ends the process \(exit status 2\).*__main__"):
        setup(nets, model_factory="script_of_a_test:build").build("net.pt")


def test_a_module_that_is_no_python_names_its_line_once(nets):
    Path(nets, "typo_of_a_test.py").write_text("x = 1\ndef build(:\n")
    with pytest.raises(SourceError, match=r"SyntaxError: invalid syntax \(typo_of_a_test\.py, line 2\)\.$"):
        setup(nets, model_factory="typo_of_a_test:build").build("net.pt")


def test_classes_of_a_pickled_model_are_found_beside_the_configuration_without_a_factory(nets):
    setup(nets)
    assert nets in sys.path


def test_without_a_factory_the_refusal_says_where_to_name_one(nets):
    with pytest.raises(SourceError, match=r"net\.pt holds weights without an architecture.*model_factory.*tag"):
        setup(nets).build("net.pt")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("nets_of_a_test:fail", r"RuntimeError: no luck \(nets_of_a_test\.py, line 6\)\."),
        ("nets_of_a_test:leave", r"ends the process \(exit status 3\)"),
        ("nets_of_a_test:wrap", r"positional argument: 'model'\.$"),
        ("nets_of_a_test:nothing", "returns nothing"),
        ("nets_of_a_test:absent", "nets_of_a_test has no absent"),
        ("absent_module_of_a_test:build", "there is no module absent_module_of_a_test.*code_paths"),
        ("nets_of_a_test.build", "must be written package.module:callable"),
    ],
)
def test_what_is_wrong_with_a_factory_is_told_apart(nets, name, what):
    with pytest.raises(SourceError, match=what):
        setup(nets, model_factory=name).build("net.pt")


def test_a_wrapper_is_put_around_the_model_and_no_wrapper_leaves_it_alone(nets):
    assert setup(nets, wrapper="nets_of_a_test:wrap").wrap("net") == "wrapped net"
    assert setup(nets).wrap("net") == "net"
    with pytest.raises(SourceError, match="wrapper nets_of_a_test:nothing returns nothing"):
        setup(nets, wrapper="nets_of_a_test:nothing").wrap("net")


def test_resolving_is_no_evaluation():
    with pytest.raises(SourceError, match=r"must be written"):
        resolve("os:system('true')", "wrapper")


def test_the_files_behind_a_name_are_found_without_importing_them(tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("raise SystemExit")
    (tmp_path / "pack" / "nets.py").write_text("")
    assert [p.name for p in code_files("pack.nets:build", [str(tmp_path)])] == ["__init__.py", "nets.py"]
    assert code_files("nowhere:build", [str(tmp_path)]) == ()


def test_a_folder_of_pictures_does_not_stand_before_the_module_of_its_name(tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits.py").write_text("")
    assert code_files("digits:build", [str(tmp_path)]) == (tmp_path / "digits.py",)


def test_a_package_stands_before_a_mere_folder_of_its_name_wherever_it_lies(tmp_path):
    for folder in ("first/models", "second/models"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "net.py").write_text("")
    search = [str(tmp_path / "first"), str(tmp_path / "second")]
    assert [path.parts[-3] for path in code_files("models.net:build", search)] == ["first", "second"]
    package = tmp_path / "second" / "models" / "__init__.py"
    package.write_text("")
    assert code_files("models.net:build", search) == (package, package.parent / "net.py")
