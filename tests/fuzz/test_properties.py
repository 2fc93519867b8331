"""Structures that a mutation seldom reaches, drawn by their types; `FUZZ_EXAMPLES` says how many of each."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from registry_export.config import parse_configuration, parse_targets
from registry_export.entities import (
    ErrorRecord,
    ExportReport,
    Metrics,
    ModelVersionRef,
    Status,
    TargetResult,
    Verification,
)
from registry_export.errors import ArtifactError, ConfigurationError, SourceError
from registry_export.manifest import Manifest, read_manifest, result_of, write_manifest
from registry_export.parsing import yaml_of
from registry_export.registry import read_model
from registry_export.report import from_json, tag_line, to_html, to_json, to_markdown
from registry_export.tensors import read_tensors, write_tensors
from registry_export_plugins._torch.pickles import outline
from tests.unit.stub_formats import FORMATS

examples = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | _TEXT
_KEYS = _TEXT | st.sampled_from(
    ["rules", "models", "targets", "promotions", "stages", "aliases", "samples", "path", "tolerance", "atol", "rtol",
     "onnx", "tflite", "required", "opset_version", "dynamic_dimensions", "flavors", "signature", "inputs", "data",
     "python_function",
     "saved_input_example_info", "artifact_path", "type", "tensor-spec", "shape", "dtype", "name"]
)  # fmt: skip
_DOCUMENTS = st.recursive(
    _PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=5), max_leaves=25
)
_STATUSES = st.sampled_from(list(Status))
_METRICS = st.builds(Metrics, max_abs_diff=st.none() | st.floats(), snr_db=st.none() | st.floats(), cosine=st.none())
_VERIFICATIONS = st.builds(Verification, status=_STATUSES, reason=_TEXT, runtime=_TEXT, metrics=_METRICS)
_RESULTS = st.builds(
    TargetResult,
    variant=_TEXT,
    format=_TEXT,
    options=st.dictionaries(_TEXT, _PLAIN, max_size=3),
    status=_STATUSES,
    size_bytes=st.none() | st.integers(-(2**63), 2**63 - 1),
    sha256=_TEXT,
    verification=st.none() | _VERIFICATIONS,
    error=st.none() | st.builds(ErrorRecord, _TEXT, _TEXT, _TEXT),
    notes=st.lists(_TEXT, max_size=2).map(tuple),
    convert_seconds=st.none() | st.floats(),
)
_REPORTS = st.builds(
    ExportReport,
    model_version=st.builds(ModelVersionRef, _TEXT, _TEXT),
    trigger=_TEXT,
    source=st.none(),
    targets=st.lists(_RESULTS, max_size=3).map(tuple),
    status=_STATUSES,
    created_at=_TEXT,
    tools=st.dictionaries(_TEXT, _TEXT, max_size=2),
)


@examples
@given(_DOCUMENTS, st.booleans())
def test_any_document_is_a_configuration_or_refused(document, whole):
    text = yaml.safe_dump(document if whole else {"rules": [document]})
    with contextlib.suppress(ConfigurationError):
        parse_configuration(text, "registry-export.yaml", FORMATS)


@examples
@given(
    st.lists(
        st.sampled_from(["onnx", "tflite", ":", "=", ",", "+", ".", "opset_version", "17", "x", "true"]), max_size=9
    )
)
def test_any_row_of_a_targets_words_is_a_target_or_refused(words):
    try:
        targets = parse_targets("".join(words), "--target", FORMATS)
    except ConfigurationError:
        return
    assert len({target.variant for target in targets}) == len(targets) > 0


@examples
@given(document=_DOCUMENTS)
def test_any_document_is_a_models_own_account_or_refused(document, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "MLmodel").write_text(yaml.safe_dump(document), encoding="utf-8")
    (folder / "input_example.json").write_text("[[1]]")
    with contextlib.suppress(SourceError):
        read_model(folder)


@examples
@given(_DOCUMENTS)
def test_a_document_is_read_as_pyyaml_itself_reads_it(document):
    text = yaml.safe_dump(document)
    assert repr(yaml_of(text)) == repr(yaml.safe_load(text))


@examples
@given(_REPORTS)
def test_a_report_of_any_content_comes_back_and_can_be_shown(report):
    """Whatever a file of the right shape says: figures without end, names of any letters, no targets at all."""
    text = to_json(report)
    read = from_json(text)
    assert to_json(read) == to_json(from_json(to_json(read)))
    to_html(read)
    to_markdown(read)
    for result in read.targets:
        assert "\n" not in tag_line(result)


@examples
@given(result=_RESULTS)
def test_a_manifest_of_any_content_comes_back_or_is_refused(result, tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("artifact")
    known = {name: getattr(result, name) for name in ("variant", "format", "options", "status")}
    place = {
        "model_version": {"name": "a", "version": "1"},
        "filename": "f",
        "files": [],
        "sha256": "",
        "size_bytes": 0,
    }
    manifest = msgspec.convert({"schema_version": 1, **place, **msgspec.to_builtins(known)}, Manifest)
    write_manifest(folder, replace(manifest, verification=result.verification, notes=result.notes))
    try:
        read = read_manifest(folder)
    except ArtifactError:
        return
    assert result_of(read).variant == result.variant


@examples
@given(
    st.recursive(_PLAIN | st.binary(max_size=300), lambda i: st.lists(i) | st.dictionaries(_TEXT, i) | st.tuples(i, i))
)
def test_the_outline_of_any_plain_value_is_that_value(value):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        found = outline(io.BytesIO(pickle.dumps(value, protocol)))
        if not isinstance(value, bytes):  # which older protocols make of a call
            assert type(found.value) in (type(value), tuple, list, dict)


@examples
@given(
    tensors=st.dictionaries(_TEXT, arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0)), max_size=3)
)
def test_arrays_of_any_name_type_and_shape_come_back(tensors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensors")
    write_tensors(folder, tensors)
    read = read_tensors(folder)
    assert list(read) == list(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(read[name], array)
