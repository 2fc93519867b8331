"""The parsers of ours, each with valid inputs and with what it may raise."""

from __future__ import annotations

import contextlib
import io
import pickle
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml

from registry_export.checkpoint import read_checkpoint
from registry_export.config import parse_configuration, parse_targets, requested_setup, requested_targets
from registry_export.conversion import Converted
from registry_export.discovery import discover_formats
from registry_export.entities import ModelVersionRef
from registry_export.errors import (
    ArtifactError,
    ChildError,
    ConfigurationError,
    RegistryExportError,
    SamplesError,
    SourceError,
    UnsupportedModelError,
    VerificationError,
)
from registry_export.isolation import Outcome
from registry_export.isolation.answers import read_answer
from registry_export.isolation.indexes import read_pip_settings
from registry_export.isolation.limits import Limits
from registry_export.isolation.protocol import ANSWER_FILE, Answer, Ended
from registry_export.manifest import (
    MANIFEST,
    STATEMENT,
    combined_digest,
    read_manifest,
    result_of,
    verify_files,
    write_manifest,
    write_statement,
)
from registry_export.manifest.bundle import Bundle, read_bundle
from registry_export.reference import Reference
from registry_export.registry.location import split_model_uri
from registry_export.registry.model_files import read_model
from registry_export.registry.sample_files import read_arrays
from registry_export.replay import Replay
from registry_export.report import description_block, from_json, tag_line, to_html, to_json, to_markdown
from registry_export.settings import Settings
from registry_export.tensors import read_tensors, write_tensors
from registry_export.tracing import Trace
from registry_export_plugins._coreml.evaluation.program import read_program
from registry_export_plugins._coreml.package import Package
from registry_export_plugins._mxnet.files import read_parameters, read_symbol
from registry_export_plugins._torch.archives import content_of
from registry_export_plugins._torch.files import hugging_face_folder, shards_of
from registry_export_plugins._torch.pickles import outline
from tests.support import affine
from tests.unit.stub_formats import FORMATS

_SEEDS = Path(__file__).parent / "seeds"
_REF = ModelVersionRef("digits", "3")


@dataclass
class Parser:
    """One parser.

    Attributes:
        name: What it is called.
        parse: Takes an input.
        allowed: What it may raise.
        make: Makes valid inputs; may use the folder that `prepare` was given.
        words: What may stand in inputs.
        most_bytes: How long they may become: PyYAML takes a millisecond for a kilobyte.
    """

    name: str
    parse: Callable[[bytes], Any]
    allowed: tuple[type[Exception], ...]
    make: Callable[[Path], Sequence[bytes]]
    words: Sequence[bytes] = ()
    most_bytes: int = 64 * 1024
    seeds: Sequence[bytes] = field(default=(), init=False)

    def prepare(self, folder: Path) -> None:
        """Make the valid inputs, and see that they are taken; files of inputs go into the folder."""
        _place.folder = folder
        self.seeds = tuple(self.make(folder))
        for seed in self.seeds:
            self.parse(seed)


class _Place:
    """Where inputs are written that a parser reads from a file."""

    folder: Path

    def file(self, name: str, data: bytes) -> Path:
        """Write one."""
        path = self.folder / name
        path.write_bytes(data)
        return path


_place = _Place()


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


_CONFIGURATIONS = (
    b'rules:\n  - models: "*"\n    targets: [onnx, {onnx: {opset_version: 17, required: false}}]\n',
    b"rules:\n- models: a\n  promotions: {stages: [Staging], aliases: [p-*]}\n  targets: [onnx]\n",
    b"rules:\n- models: a\n  targets:\n  - tflite: {scale: 2.5, note: 'a:b'}\n  tolerance: {atol: 1e-5, rtol: 1}\n",
    b"rules:\n- models: a\n  targets: [{onnx: {dynamic_dimensions: {x: {1: seq}}}}]\n  samples: {path: s.npz}\n",
    b"rules:\n- {models: a, targets: [onnx], on_failure: keep, sandbox: required, allow_pickle: no, wrapper: a:b}\n",
)
_TARGETS = (b"onnx, onnx:opset_version=17:optimize=false", b"onnx:opset_version=17:required=false", b"onnx")
_EXAMPLES = (
    b'{"inputs": [[1.0, 2.0, 3.0]]}',
    b'{"columns": ["a", "b"], "data": [[1, 2], [3, 4]]}',
    b'{"inputs": {"x": [[1, NaN]], "y": [true]}}',
    b"[[0.5, 1e30]]",
)


def _configuration(data: bytes) -> None:
    configuration = parse_configuration(_text(data), "registry-export.yaml", FORMATS)
    configuration.rule_for("digits", "stage:Staging")


def _targets_tag(data: bytes) -> None:
    requested_targets(None, {"registry_export.targets": _text(data)}, "digits/3", FORMATS)


def _factory_tag(data: bytes) -> None:
    requested_setup(None, {"registry_export.model_factory": _text(data)}, "digits/3")


def _mlmodel(data: bytes) -> None:
    _place.file("MLmodel", data)
    read_model(_place.folder)


def _mlmodels(folder: Path) -> list[bytes]:
    (folder / "input_example.json").write_bytes(_EXAMPLES[0])
    (folder / "code").mkdir(exist_ok=True)
    columns = {"inputs": '[{"name": "a", "type": "long"}, {"type": "array", "items": {"type": "string"}}]'}
    tensors = {"inputs": '[{"name": "x", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 3]}}]'}
    info = {"artifact_path": "input_example.json", "type": "ndarray"}
    flavor = {"loader_module": "mlflow.pyfunc.model", "code": "code"}
    documents = (
        {"signature": columns},
        {"signature": tensors},
        {"saved_input_example_info": info},
        {"flavors": {"python_function": flavor}, "metadata": {"a": [1, 2.5, None]}},
    )
    return [yaml.safe_dump(document).encode() for document in documents]


def _recognition(data: bytes) -> None:
    _place.file("MLmodel", data)
    read_checkpoint(_place.folder, discover_formats())


def _recognisable(folder: Path) -> list[bytes]:
    (folder / "data").mkdir(exist_ok=True)
    shutil.copyfile(_SEEDS / "module.pt", folder / "data" / "model.pth")
    (folder / "python_model.pkl").write_bytes(pickle.dumps({"a": 1}))
    (folder / "model.onnx").write_bytes(b"onnx")
    (folder / "model.py").write_text("import torch\n")
    flavors = (
        {"pytorch": {"model_data": "data"}},
        {"onnx": {"data": "model.onnx"}},
        {
            "python_function": {
                "loader_module": "mlflow.pyfunc.loaders.code_model",
                "model_code_path": "model.py",
                "artifacts": {"weights": {"path": "data/model.pth", "uri": "x"}},
            }
        },
    )
    return [yaml.safe_dump({"flavors": flavor}).encode() for flavor in flavors]


def _example(data: bytes) -> None:
    _place.file("input_example.json", data)
    read_model(_place.folder)


def _examples(folder: Path) -> Sequence[bytes]:
    (folder / "MLmodel").write_text("saved_input_example_info: {type: dataframe}")
    return _EXAMPLES


def _made(folder: Path) -> Path:
    with affine.installed(folder / "site"):
        affine.made(folder / "affine", _REF, affine.result())
    return folder / "affine"


def _manifest(data: bytes) -> None:
    folder = _place.folder / "affine"
    (folder / MANIFEST).write_bytes(data)
    manifest = read_manifest(folder)
    result_of(manifest)
    write_statement(folder, manifest)  # as who changes one changes the other
    verify_files(folder, manifest)


def _manifests(folder: Path) -> list[bytes]:
    return [(_made(folder) / "manifest.json").read_bytes()]


def _statement(data: bytes) -> None:
    (_place.folder / STATEMENT).write_bytes(data)
    verify_files(_place.folder)


def _statements(folder: Path) -> list[bytes]:
    """Of an artifact without files: what is compared is the statement."""
    manifest = read_manifest(_made(folder))
    write_manifest(folder, replace(manifest, files=(), beside=(), sha256=combined_digest(()), size_bytes=0))
    return [(folder / STATEMENT).read_bytes()]


def _signature(data: bytes) -> None:
    read_bundle(_place.file("model.sig", data), "onnx").digests("onnx")


def _payload(data: bytes) -> None:
    Bundle(data, b"", "").digests("onnx")


def _signed(folder: Path) -> list[bytes]:
    from registry_export.manifest import Signer
    from tests.support.signing_keys import key_pair

    made = _made(folder)
    Signer.read(key_pair(folder)[0]).sign(made, read_manifest(made))
    return [(made / "model.sig").read_bytes()]


def _payloads(folder: Path) -> list[bytes]:
    (signed,) = _signed(folder)
    return [msgspec.json.decode(signed)["dsseEnvelope"]["payload"].encode(), _decoded_payload(signed)]


def _decoded_payload(signed: bytes) -> bytes:
    import base64

    return base64.b64decode(msgspec.json.decode(signed)["dsseEnvelope"]["payload"])


def _report(data: bytes) -> None:
    report = from_json(data)
    to_json(report)
    to_html(report)
    to_markdown(report)
    description_block(report, lambda path: path, 4000)
    for result in report.targets:
        tag_line(result)


def _reports(folder: Path) -> list[bytes]:
    with affine.installed(folder / "site"):
        return [to_json(affine.report(_REF, affine.result(), affine.result("other"))).encode()]


def _answer(data: bytes) -> None:
    _place.file(ANSWER_FILE, data)
    answer = read_answer(Ended(0, 0), _place.folder, Limits())
    outcome = Outcome(answer.value, answer.warnings, 0.0, 0)
    for kind in (Reference, Converted, Replay, Trace):
        with contextlib.suppress(ChildError):
            outcome.of(kind)


def _answers(folder: Path) -> list[bytes]:
    reference = Reference(affine.INTERFACE, "example", (), ("a note",))
    values = (
        Answer({"a": [1, "b", None]}),
        Answer(msgspec.to_builtins(reference)),
        Answer([1.5], warnings=("w",), imported=("m",)),
    )
    return [msgspec.json.encode(value) for value in values]


def _tensors(data: bytes) -> None:
    folder = _place.folder / "tensors"
    (folder / "0.npy").write_bytes(data)
    for array in read_tensors(folder).values():
        array.sum() if array.dtype.kind in "iufb" and array.size < 1000 else None


def _index(data: bytes) -> None:
    folder = _place.folder / "tensors"
    (folder / "index.json").write_bytes(data)
    read_tensors(folder)


def _arrays(folder: Path) -> list[bytes]:
    made = []
    for array in (np.ones((2, 3), np.float32), np.arange(5), np.asfortranarray(np.zeros((2, 2))), np.array("text")):
        write_tensors(folder / "tensors", {"x": array})
        made.append((folder / "tensors" / "0.npy").read_bytes())
    return made


def _indices(folder: Path) -> list[bytes]:
    write_tensors(folder / "tensors", {"x": np.ones(2), "ä": np.ones(3)})
    return [(folder / "tensors" / "index.json").read_bytes()]


def _samples(data: bytes) -> None:
    read_arrays(_place.file("samples.npz", data), "samples.npz")


def _archives(folder: Path) -> list[bytes]:
    made = []
    for write in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        write(stream, x=np.ones((2, 3), np.float32), y=np.arange(4))
        made.append(stream.getvalue())
    stream = io.BytesIO()
    np.save(stream, np.ones(3))
    return [*made, stream.getvalue()]


def _pickles(folder: Path) -> list[bytes]:
    values: list[Any] = [
        {"a": [1, 2.5, None, True], "b": (1, "x", b"y")},
        {"n": np.ones(2)},
        [ModelVersionRef("a", "1")],
    ]
    return [pickle.dumps(value, protocol) for value in values for protocol in (0, 2, 4)]


def _archive(data: bytes) -> None:
    content_of(_place.file("model.pt", data))


def _torch_files(folder: Path) -> list[bytes]:
    names = ("module.pt", "state.pt", "training.ckpt", "legacy.pt")
    return [*((_SEEDS / name).read_bytes() for name in names), *_pickles(folder)]


def _hugging_face(data: bytes) -> None:
    folder = _place.folder
    _place.file("config.json", data)
    hugging_face_folder(folder)
    shards_of(_place.file("model.safetensors.index.json", data))


def _configs(folder: Path) -> list[bytes]:
    (folder / "model.safetensors").write_bytes(b"x")
    index = b'{"metadata": {"total_size": 8}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}'
    return [b'{"model_type": "bert", "hidden_size": 8, "a": [1, {"b": null}]}', index]


_SYMBOL = b"""{"nodes": [{"op": "null", "name": "data", "inputs": []},
 {"op": "null", "name": "w", "attrs": {"__shape__": "(3L, 3L)"}, "inputs": []},
 {"op": "FullyConnected", "name": "fc", "attrs": {"num_hidden": "3", "no_bias": "True"}, "inputs": [[0, 0, 0],
 [1, 0, 0]]}, {"op": "BatchNorm", "name": "bn", "param": {"eps": "1e-5"}, "inputs": [[2, 0], [0, 0], [1, 0]]}],
 "arg_nodes": [0, 1], "heads": [[3, 0, 0]], "attrs": {"mxnet_version": ["int", 10901]}}"""


def _symbol(data: bytes) -> None:
    symbol = read_symbol(_place.file("net-symbol.json", data))
    for node in symbol.nodes:
        for key in node.attributes:
            node.get(key)
            node.sizes(key, (1,))


def _parameters(data: bytes) -> None:
    read_parameters(_place.file("net-0000.params", data))


def _parameter_files(folder: Path) -> list[bytes]:
    import struct

    def array(values: np.ndarray, magic: int = 0xF993FAC9) -> bytes:
        rank = struct.pack("<I", values.ndim)
        head = struct.pack("<Ii", magic, 0) + rank if magic != 0 else rank
        sizes = b"".join(struct.pack("<q" if magic else "<I", size) for size in values.shape)
        return head + sizes + struct.pack("<iii", 1, 0, 0) + values.astype("<f4").tobytes()

    def file(*arrays: bytes) -> bytes:
        names = [b"arg:w", b"aux:mean"][: len(arrays)]
        text = b"".join(struct.pack("<Q", len(name)) + name for name in names)
        return struct.pack("<QQQ", 0x112, 0, len(arrays)) + b"".join(arrays) + struct.pack("<Q", len(names)) + text

    two = np.ones((2, 3))
    return [file(array(two), array(np.ones(4))), file(array(two, 0)), file(array(two, 0xF993FACA))]


def _package(data: bytes) -> None:
    (_place.folder / "model.mlpackage/Data/com.apple.CoreML/model.mlmodel").write_bytes(data)
    package = Package(_place.folder / "model.mlpackage")
    read_program(package)


def _programs(folder: Path) -> list[bytes]:
    shutil.copytree(_SEEDS / "convolved.mlpackage", folder / "model.mlpackage", dirs_exist_ok=True)
    return [
        (_SEEDS / f"{n}.mlpackage/Data/com.apple.CoreML/model.mlmodel").read_bytes()
        for n in ("convolved", "compressed")
    ]


def _weights(data: bytes) -> None:
    (_place.folder / "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin").write_bytes(data)
    read_program(Package(_place.folder / "model.mlpackage"))


def _weight_files(folder: Path) -> list[bytes]:
    shutil.copytree(_SEEDS / "convolved.mlpackage", folder / "model.mlpackage", dirs_exist_ok=True)
    return [(_SEEDS / "convolved.mlpackage/Data/com.apple.CoreML/weights/weight.bin").read_bytes()]


def _package_manifest(data: bytes) -> None:
    (_place.folder / "model.mlpackage/Manifest.json").write_bytes(data)
    Package(_place.folder / "model.mlpackage")


def _package_manifests(folder: Path) -> list[bytes]:
    shutil.copytree(_SEEDS / "convolved.mlpackage", folder / "model.mlpackage", dirs_exist_ok=True)
    return [(_SEEDS / "convolved.mlpackage/Manifest.json").read_bytes()]


_PIP = (
    b"global.index-url='https://packages.example/simple'\ninstall.extra-index-url='https://a.example https://b.example'\n",
    b":env:.find-links='/wheels'\nglobal.trusted-host='a.example'\n",
)


def _settings(data: bytes) -> None:
    text = _text(data).replace("\0", "")
    Settings.from_environment({f"REGISTRY_EXPORT_{name}": text for name in ("CHILD_MEMORY",)})
    Settings.from_environment({"REGISTRY_EXPORT_CHILD_TIMEOUT": text, "REGISTRY_EXPORT_LEDGER_URI": "sqlite://"})


_RULE_WORDS = (
    b"rules:",
    b"models:",
    b"targets:",
    b"promotions:",
    b"aliases:",
    b"tolerance:",
    b"samples:",
    b"onnx",
    b"1.0e-5",
)
_JSON_WORDS = (
    b'"name":',
    b'"status": "verified"',
    b'"files":',
    b'"targets":',
    b'"shape":',
    b'"verification":',
    b'"metrics":',
)

PARSERS = (
    Parser("rules", _configuration, (ConfigurationError,), lambda _: _CONFIGURATIONS, _RULE_WORDS, 4096),
    Parser(
        "targets", lambda d: parse_targets(_text(d), "--target", FORMATS), (ConfigurationError,), lambda _: _TARGETS
    ),
    Parser("targets_tag", _targets_tag, (ConfigurationError,), lambda _: _TARGETS),
    Parser("factory_tag", _factory_tag, (ConfigurationError,), lambda _: [b"nets.digits:build"], (b"a.b:c",)),
    Parser(
        "settings", _settings, (ConfigurationError,), lambda _: [b"8", b"1024", b"1e9"], (b"G", b"GiB", b"K", b"inf")
    ),
    Parser(
        "uris", lambda d: split_model_uri(_text(d)), (ConfigurationError,), lambda _: [b"models:/a/3", b"models:/a@b"]
    ),
    Parser("pip", lambda d: read_pip_settings(_text(d)), (), lambda _: _PIP),
    Parser(
        "mlmodel",
        _mlmodel,
        (SourceError,),
        _mlmodels,
        (b"flavors:", b"signature:", b'"type": "array"', b'"items":'),
        4096,
    ),
    Parser("example", _example, (SourceError,), _examples, (b'"inputs":', b'"data":', b'"columns":')),
    Parser(
        "recognition", _recognition, (RegistryExportError,), _recognisable, (b"data: ", b"artifacts:", b"path:"), 4096
    ),
    Parser("huggingface", _hugging_face, (), _configs, (b'"weight_map":', b'"model_type":')),
    Parser("manifest", _manifest, (ArtifactError,), _manifests, _JSON_WORDS),
    Parser("statement", _statement, (ArtifactError,), _statements, _JSON_WORDS),
    Parser("signature", _signature, (ArtifactError,), _signed),
    Parser("signed", _payload, (ArtifactError,), lambda f: _payloads(f)[1:], (b'"resources":', b'"algorithm":')),
    Parser("report", _report, (ArtifactError,), _reports, _JSON_WORDS),
    Parser(
        "answer",
        _answer,
        (RegistryExportError,),
        _answers,
        (b'"failure": {"type": "MemoryError", "message": ""}', b'"type": "ConversionError"', b'"value":', b'"remedy":'),
    ),
    Parser("tensors", _tensors, (ValueError,), _arrays, (b"'descr':", b"'shape':", b"|O", b"<f8", b"(10**9,)")),
    Parser("index", _index, (ValueError, FileNotFoundError), _indices),
    Parser("samples", _samples, (SamplesError,), _archives, (b"PK\x03\x04", b"PK\x01\x02", b"|O", b"'shape':")),
    Parser(
        "pickle",
        lambda d: outline(io.BytesIO(d)),
        (ValueError,),
        _pickles,
        (b"\x8a", b"\x8b", b"\x8e", b"\x96", b"2\x86", b"R", b"c"),
    ),
    Parser(
        "archive", _archive, (), _torch_files, (b"PK\x03\x04", b"PK\x05\x06", b"/data.pkl", b"2\x86", b"\x93", b"R")
    ),
    Parser("symbol", _symbol, (SourceError,), lambda _: [_SYMBOL], (b'"inputs":', b'"attrs":', b'"heads":')),
    Parser("parameters", _parameters, (SourceError, UnsupportedModelError), _parameter_files),
    Parser("coreml", _package, (VerificationError,), _programs, (b"main", b"const", b"while_loop", b"val")),
    Parser("weights", _weights, (VerificationError,), _weight_files, (b"\xef\xbe\xad\xde",)),
    Parser("mlpackage", _package_manifest, (VerificationError,), _package_manifests, (b'"path":', b"..")),
)
