"""What is wrong with a TensorFlow or Keras file is said in one sentence, without the folder that it was fetched to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from registry_export.discovery import discover_formats
from registry_export.entities import Interface
from registry_export.errors import SourceError
from registry_export.format import ModelSetup
from tests.support.sources import tensorflow as sources

FORMATS = discover_formats()
UNKNOWN = Interface(inputs=())
NET = ModelSetup(model_factory="tests.support.sources.tensorflow:keras_net")
MODULE = ModelSetup(model_factory="tests.support.sources.tensorflow:module")


def refusal(folder: Path, name: str, setup: ModelSetup) -> str:
    """Load a folder of plain files as the one format that claims it; return what it is refused with."""
    found = {own: path for own, format_ in FORMATS.items() if (path := format_.locate(folder, {})) is not None}
    assert list(found) == [name]
    with pytest.raises(SourceError) as caught:
        FORMATS[name].load(found[name], UNKNOWN, setup)
    text = str(caught.value)
    assert "\n" not in text
    assert str(folder) not in text
    return text


def written(kind: str, folder: Path) -> Path:
    getattr(sources, kind)({"folder": str(folder)})
    return folder


def test_a_text_called_h5_is_no_file_of_weights(tmp_path: Path):
    (tmp_path / "net.h5").write_text("no model")
    assert "file signature not found" in refusal(tmp_path, "keras", ModelSetup())


@pytest.mark.parametrize("whole", [True, False], ids=["cut", "text"])
def test_a_damaged_keras_archive_is_not_called_absent(tmp_path: Path, whole: bool):
    path = tmp_path / "net.keras"
    path.write_text("no model")
    if whole:
        sources.trained().save(path)
        path.write_bytes(path.read_bytes()[:2000])
    assert "net.keras is no Keras archive" in refusal(tmp_path, "keras", ModelSetup())


def test_a_lambda_is_refused_by_the_rules_own_word(tmp_path: Path):
    import keras

    net = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2)])
    net.save(tmp_path / "net.keras")
    text = refusal(tmp_path, "keras", ModelSetup(allow_pickle=False))
    assert "allow_pickle: false" in text
    assert "enable_unsafe_deserialization" not in text


def test_weights_that_cannot_be_opened_are_not_blamed_on_the_factory(tmp_path: Path):
    (tmp_path / "net.weights.h5").write_text("no weights")
    text = refusal(tmp_path, "keras_weights", NET)
    assert "net.weights.h5 cannot be read" in text
    assert "model_factory" not in text


@pytest.mark.parametrize(
    ("kind", "name", "setup"),
    [("tf_checkpoint", "tf_checkpoint", MODULE), ("keras_2_checkpoint", "keras_weights", NET)],
)
def test_a_checkpoint_without_its_values_is_not_blamed_on_the_factory(tmp_path: Path, kind, name, setup):
    folder = written(kind, tmp_path / "files")
    for path in folder.glob("*.data-*"):
        path.unlink()
    text = refusal(folder, name, setup)
    assert "no file with values" in text
    assert "model_factory" not in text


def test_values_of_another_size_are_listed_with_their_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import keras

    folder = written("keras_2_checkpoint", tmp_path / "files")
    wider = keras.Sequential(
        [
            keras.layers.Dense(6, name=layer.name) if layer.name == "scores" else layer
            for layer in sources.keras_net().layers
        ]
    )
    wider.build((None, 12, 12, 3))
    monkeypatch.setattr(sources, "keras_net", lambda: wider)
    text = refusal(folder, "keras_weights", NET)
    assert "scores/kernel [12, 6]" in text
    assert "kernel [12, 5]" in text


def test_a_saved_model_without_variables_asks_for_the_whole_folder(tmp_path: Path):
    folder = written("saved_model_folder", tmp_path / "files")
    shutil.rmtree(folder / "1" / "variables")
    text = refusal(folder, "saved_model", ModelSetup())
    assert "The SavedModel 1 cannot be loaded" in text
    assert text.endswith("Log the folder whole, with its variables.")
