"""The command line before any server: what it prints, and which exit code it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy

from registry_export.api import Exported
from registry_export.cli import cli, main
from registry_export.cli.processes import server_url, store_of
from registry_export.cli.progress import TerminalReporter
from registry_export.cli.tables import print_table, print_targets
from registry_export.entities import (
    Contents,
    ErrorRecord,
    ExportReport,
    Metrics,
    ModelVersionRef,
    Status,
    TargetResult,
    Verification,
)
from registry_export.errors import (
    ArtifactError,
    ConfigurationError,
    ModelVersionNotFoundError,
    RegistryUnavailableError,
)
from registry_export.ledger import Ledger
from registry_export.outbox import create_outbox, outbox

HEAVY = ("mlflow", "torch", "tensorflow", "numpy", "sqlalchemy", "yaml", "onnx", "jinja2", "platformdirs")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server, no configuration and no ledger of the machine's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("REGISTRY_EXPORT_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("REGISTRY_EXPORT_LEDGER_URI", f"sqlite:///{tmp_path / 'ledger.db'}")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0)


def test_help_imports_no_heavy_package_and_answers_at_once() -> None:
    code = (
        "import sys\nfrom registry_export.cli import main\n"
        f"try: main(['--help'])\nfinally: print([m for m in {HEAVY} if m in sys.modules])"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert time.monotonic() - began < 3  # 0.1 s on an idle machine; the modules above are what makes it slow


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, registry_export; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_export_stays_the_function_when_the_module_of_that_name_is_imported() -> None:
    code = (
        "import registry_export\nfrom registry_export.export import export_model_version\n"
        "assert callable(registry_export.export), registry_export.export\n"
        "from registry_export import export\nassert callable(export)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_of_the_contract_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    assert "Usage: registry-export" in capsys.readouterr().out


def test_the_commands_are_those_of_the_contract_and_those_of_the_readme() -> None:
    contract = {"export", "plan", "pull", "jobs", "formats", "worker", "server", "demo"}
    added = {"verify", "doctor", "check", "inspect", "diff", "view", "layout", "completion"}
    assert set(cli.commands) == contract | added


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bogus"], "No such command"),
        (["export"], "MODEL_URI"),
        (["export", "models:/m/1", "--bogus"], "No such option"),
        (["export", "models:/m/1", "--atol", "1"], "--rtol"),
        (["export", "models:/m/1", "--atol", "-1", "--rtol", "0"], "-1"),
        (["export", "models:/m/1", "--atol", "nan", "--rtol", "0"], "must be finite"),
        (["export", "models:/m/1", "--samples", "absent.npz"], "no file absent.npz"),
        (["export", "models:/m/1", "--target", "nothing"], "unknown format 'nothing'; the choices are"),
        (
            ["export", "models:/m/1", "--target", "tflite:precision=bf16"],
            "cannot be 'bf16': LiteRT's kernels for the CPU compute in none; the choices are fp32, fp16, int8.",
        ),
        (["plan", "models:/m/1", "--target", "torchscript:methd=trace"], "did you mean 'method'?"),
        (["export", "models:/m/1"], "MLFLOW_TRACKING_URI is not set"),
        (["pull", "models:/m/1", "--target", "onnx"], "--output"),
        (["formats", "nothing"], "unknown format 'nothing'"),
    ],
)
def test_a_mistake_in_usage_is_one_sentence_and_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_a_broken_configuration_is_refused_at_start_with_its_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("registry-export.yaml").write_text("rules:\n  - models: m\n    targets: [onnxx]\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert run("worker", "--once") == 2
    assert "registry-export.yaml:3: rules[0].targets[0]: unknown format 'onnxx'" in capsys.readouterr().err


def test_a_server_that_is_down_is_one_sentence_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert run("export", "models:/m/1") == 1
    error = capsys.readouterr().err
    assert "http://127.0.0.1:9" in error
    assert "Traceback" not in error


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("registry_export.api.export", failing)


def test_a_fault_of_our_own_is_a_sentence_and_debug_shows_the_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, ZeroDivisionError("by us"))
    assert run("export", "models:/m/1") == 1
    error = capsys.readouterr().err
    assert "ZeroDivisionError: by us" in error
    assert "--debug" in error
    assert "Traceback" not in error
    assert run("--debug", "export", "models:/m/1") == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_leaves_130_and_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    assert run("export", "models:/m/1") == 130
    assert capsys.readouterr().err.strip().splitlines() == ["Stopped. What was published stays; run it again to go on."]


@pytest.mark.parametrize("command", ["export", "verify"])
@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Status.VERIFIED, 0),
        (Status.UNVERIFIED, 0),
        (Status.MISMATCH, 1),
        (Status.FAILED, 1),
        (RegistryUnavailableError("It is down."), 1),
        (ArtifactError("It is torn."), 1),
        (ZeroDivisionError("by us"), 1),
        (ConfigurationError("It is not understood."), 2),
        (ModelVersionNotFoundError("There is none."), 2),
        (KeyboardInterrupt(), 130),
    ],
    ids=str,
)
def test_an_exit_code_says_how_it_ended(
    command: str, outcome: Status | BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ending(*_: object, **__: object) -> Exported:
        if isinstance(outcome, BaseException):
            raise outcome
        return Exported(ExportReport(ModelVersionRef("m", "1"), "manual", None, (), outcome), "")

    monkeypatch.setattr(f"registry_export.api.{command}", ending)
    assert run(command, "models:/m/1") == code


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("completion", shell) == 0
    assert f"_REGISTRY_EXPORT_COMPLETE={shell}_complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["exp"], {"export"}),
        (["jobs", "list", "--state", "de"], {"dead"}),
        (["export", "m"], {"models:/"}),
        (["export", "models:/m/1", "--target", "onnx,tfl"], {"onnx,tflite"}),
        (["pull", "models:/m/1", "--target", "ope"], {"openvino"}),
        (["formats", "core"], {"coreml"}),
    ],
)
def test_bash_completes_commands_choices_and_formats(words: list[str], wanted: set[str]) -> None:
    script = (
        'source <(registry-export completion bash); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1));'
        '_registry_export_completion registry-export; echo "${COMPREPLY[@]}"'
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", "-c", script, "bash", "registry-export", *words]
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == wanted


COLOURED = """
from registry_export.cli import main, cli
from registry_export.cli.progress import TerminalReporter
import click
@cli.command("show")
def show():
    click.echo(click.style("red", fg="red"))
    reporter = TerminalReporter()
    reporter.step_started("convert", "onnx")
    reporter.step_finished("convert", "onnx", "done", 1.25)
main(["show"])
"""


@pytest.mark.parametrize(
    ("environ", "coloured", "live"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False, True),
        ({"TERM": "dumb", "NO_COLOR": "1"}, False, False),
    ],
)
def test_a_terminal_gets_colours_and_a_line_that_moves_where_it_can(
    environ: dict[str, str], coloured: bool, live: bool
) -> None:
    ours, theirs = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    subprocess.run([sys.executable, "-c", COLOURED], env={**inherited, **environ}, stdout=theirs, check=True)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    assert (b"\x1b[31m" in shown) is coloured
    assert (b"\x1b[2K" in shown) is live
    assert b"convert      onnx" in shown


def test_a_file_gets_neither_colours_nor_control_characters() -> None:
    done = subprocess.run([sys.executable, "-c", COLOURED], capture_output=True, check=True)
    assert done.stdout.decode().isascii()
    assert not set(done.stdout) & {0x1B, 0x0D, 0x08}


def keys(value: object) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(keys, value))
    if isinstance(value, dict):
        return set(value) | keys(list(value.values()))
    return set()


def test_json_is_written_in_one_style_and_nothing_beside_it(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    job_id = ledger.enqueue(ModelVersionRef("digits", "1"), "stage:Staging")
    listings = (["formats"], ["formats", "onnx"], ["jobs"], ["jobs", "list"], ["jobs", "show", str(job_id)], ["doctor"])
    for words in listings:
        code = run(*words, "--json")
        out = capsys.readouterr().out
        found = json.loads(out)
        assert (code, type(found)) == (int(words == ["doctor"]), list), words
        assert out == json.dumps(found, indent=2, ensure_ascii=False) + "\n"
        assert all(re.fullmatch(r"[a-z0-9_]+", key) for key in keys(found)), words
    assert run("jobs", "--json", "list") == 2


def test_an_error_of_the_registry_leaves_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(monkeypatch, RegistryUnavailableError("It is down.", remedy="Start it."))
    assert run("export", "models:/m/1") == 1
    assert capsys.readouterr().err == "Error: It is down. Start it.\n"


def test_formats_lists_every_installed_format_as_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("formats") == 0
    table = capsys.readouterr().out
    assert run("formats", "--json") == 0
    records = json.loads(capsys.readouterr().out)
    assert {"keras", "tflite"} <= {record["name"] for record in records}
    for record in records:
        assert record["name"] in table
        assert record["verified_by"] in table
        assert record["installed"] is not bool(record["missing"])


def test_formats_of_one_name_shows_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("formats", "tflite") == 0
    out = capsys.readouterr().out
    assert "option" in out
    assert "dynamic_dimensions" in out


def test_the_table_of_an_export_shows_measured_facts_and_why_one_failed(capsys: pytest.CaptureFixture[str]) -> None:
    good = TargetResult(
        "onnx",
        "onnx",
        {},
        Status.VERIFIED,
        opset_version=20,
        size_bytes=44_700_000,
        convert_seconds=1.26,
        verification=Verification(Status.VERIFIED, metrics=Metrics(max_abs_diff=2.4e-7)),
    )
    bad = TargetResult("tflite", "tflite", {}, Status.FAILED, error=ErrorRecord("Convert", "X", "no such\noperator"))
    print_targets([good, bad])
    assert capsys.readouterr().out.splitlines() == [
        "variant  status    version   size     max abs diff  seconds",
        "onnx     verified  opset 20  44.7 MB  2.4e-07       1.3",
        "tflite   failed    -         -        -             -",
        "tflite: Convert: no such operator",
    ]


def test_a_table_without_rows_still_shows_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a", "b"), [])
    assert capsys.readouterr().out == "a  b\n"


def test_a_step_is_one_line_where_output_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = TerminalReporter()
    reporter.step_started("convert", "onnx")
    reporter.step_finished("convert", "onnx", "done", 1.25)
    reporter.note("a note")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["convert", "onnx", "done", "1.2", "s"]
    assert lines[1].strip() == "a note"
    TerminalReporter(to_stderr=True).note("aside")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "environ", "url"),
    [
        ([], {}, "http://127.0.0.1:5000"),
        (["--port", "5001", "--host=0.0.0.0"], {}, "http://127.0.0.1:5001"),
        (["-p", "80", "-h", "::1"], {}, "http://[::1]:80"),
        (["--port=1"], {"MLFLOW_PORT": "2", "MLFLOW_HOST": "box"}, "http://box:1"),
    ],
)
def test_the_worker_is_pointed_at_the_server_it_was_started_with(
    arguments: list[str], environ: dict[str, str], url: str
) -> None:
    assert server_url(arguments, environ) == url


def test_a_server_with_rules_that_are_not_understood_says_so_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "registry-export.yaml").write_text("rules: [{models: '*', targets: [onxx]}]")
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a process was started"))
    assert run("server", "--port", "1") == 2
    assert "did you mean 'onnx'?" in capsys.readouterr().err


def test_the_hooks_database_is_the_registrys_when_stores_are_split() -> None:
    assert store_of([], {}) == (("--backend-store-uri", "sqlite:///mlflow.db"), "sqlite:///mlflow.db")
    both = ["--backend-store-uri", "sqlite:///a.db", "--registry-store-uri=sqlite:///b.db"]
    assert store_of(both, {}) == ((), "sqlite:///b.db")
    assert store_of([], {"MLFLOW_BACKEND_STORE_URI": "postgresql://x"}) == ((), "postgresql://x")


@pytest.mark.usefixtures("ledger")
def test_jobs_of_a_new_ledger_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("jobs") == 0
    assert capsys.readouterr().out.split()[:2] == ["job", "model"]


def test_a_mistyped_ledger_is_named_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REGISTRY_EXPORT_LEDGER_URI", f"sqlite:///{tmp_path / 'tpyo' / 'ledger.db'}")
    assert run("jobs") == 0
    assert f"There is no ledger {tmp_path / 'tpyo' / 'ledger.db'}" in capsys.readouterr().err
    assert run("jobs", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    for command in ("show", "retry", "cancel"):
        assert run("jobs", command, "1") == 2
        assert "There is no ledger" in capsys.readouterr().err
    assert not (tmp_path / "tpyo").exists()


@pytest.mark.usefixtures("ledger")
def test_a_ledger_that_is_named_by_sqlites_own_address_is_not_missing(monkeypatch, tmp_path, capsys):
    Ledger(f"sqlite:///{tmp_path / 'own.db'}").migrate()
    monkeypatch.setenv("REGISTRY_EXPORT_LEDGER_URI", f"sqlite:///file:{tmp_path / 'own.db'}?mode=rwc&uri=true")
    assert run("jobs") == 0
    assert "There is no ledger" not in capsys.readouterr().err


def test_jobs_of_a_ledger_that_nobody_named_say_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("REGISTRY_EXPORT_LEDGER_URI")
    monkeypatch.delenv("REGISTRY_EXPORT_OUTBOX_URI", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    ledger = Ledger(f"sqlite:///{tmp_path / 'data' / 'registry-export' / 'ledger.db'}")
    ledger.migrate()
    ledger.enqueue(ModelVersionRef("digits", "1"), "manual")
    assert run("jobs") == 0
    said = capsys.readouterr()
    assert "digits/1" in said.out
    assert "data/registry-export/ledger.db" in said.err
    assert "REGISTRY_EXPORT_OUTBOX_URI" in said.err


def test_jobs_are_listed_the_newest_first_and_by_state(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    first = ledger.enqueue(ModelVersionRef("digits", "1"), "stage:Staging")
    ledger.enqueue(ModelVersionRef("digits", "2"), "alias:champion")
    ledger.cancel(first)
    assert run("jobs") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["digits/2", "digits/1"]
    assert run("jobs", "list", "--state", "cancelled", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(job["id"], job["state"], job["trigger"]) for job in found] == [(first, "cancelled", "stage:Staging")]
    assert run("jobs", "list", "--limit", "1") == 0
    assert "digits/1" not in capsys.readouterr().out


def test_a_jobs_error_is_cut_in_the_list_and_whole_when_shown(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    job_id = ledger.enqueue(ModelVersionRef("digits", "1"), "manual")
    job = ledger.claim("me")
    assert job is not None
    ledger.fail(job, "The checkpoint cannot be read, " * 10 + "at all.", transient=False)
    assert run("jobs", "list") == 0
    assert "at all." not in capsys.readouterr().out
    assert run("jobs", "show", str(job_id)) == 0
    shown = capsys.readouterr().out
    assert "at all." in shown
    assert "dead" in shown
    assert run("jobs", "retry", str(job_id)) == 0
    assert ledger.get(job_id).state == "queued"


def test_a_running_job_is_cancelled_by_its_worker(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    job_id = ledger.enqueue(ModelVersionRef("digits", "1"), "manual")
    ledger.claim("me")
    assert run("jobs", "cancel", str(job_id)) == 0
    assert "stopped by its worker" in capsys.readouterr().out
    assert ledger.get(job_id).cancel_requested


def test_a_listing_says_what_comes_next_how_old_a_job_is_and_what_there_is_in_all(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in ("1", "2", "3"):
        ledger.enqueue(ModelVersionRef("digits", version), "stage:Staging")
    first, silent = ledger.claim("me"), ledger.claim("me", lease_s=-300.0)
    assert first is not None
    assert silent is not None
    ledger.fail(first, "The server did not answer.", transient=True)
    with ledger.database.write() as connection:
        connection.exec_driver_sql("UPDATE registry_export_jobs SET created_at_ms = created_at_ms - 3 * 3600 * 1000")
    assert run("jobs", "list") == 0
    shown = capsys.readouterr()
    waiting, lapsed, again = shown.out.splitlines()[1:]
    assert re.search(r"failed, again in \d+ s .* 3 h .*did not answer", again)
    assert "running, its worker is silent for 5 min" in lapsed
    assert "queued  " in waiting
    assert "1 queued, 1 running, 1 failed; the oldest that waits was asked for 3 h ago." in shown.err
    assert run("jobs", "show", str(first.id)) == 0
    shown = capsys.readouterr()
    assert re.search(r"^next attempt: +\d{4}-", shown.out, re.M)
    assert re.search(r"^asked for: .* UTC, 3 h ago$", shown.out, re.M)


def test_jobs_of_one_model_are_listed_and_those_of_a_state_retried_together(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, version in (("digits", "1"), ("digits", "2"), ("other", "1")):
        ledger.enqueue(ModelVersionRef(name, version), "stage:Staging")
        job = ledger.claim("me")
        assert job is not None
        ledger.fail(job, "No.", transient=False)
    listed = {}
    for words in ("digits", "digits/2", "digit"):
        assert run("jobs", "list", "--model", words, "--json") == 0
        listed[words] = [job["id"] for job in json.loads(capsys.readouterr().out)]
    assert listed == {"digits": [2, 1], "digits/2": [2], "digit": []}
    assert run("jobs", "retry", "--state", "dead", "--model", "digits") == 0
    assert capsys.readouterr().out.splitlines() == ["Job 1 is queued.", "Job 2 is queued."]
    assert [job.state for job in ledger.list()] == ["dead", "queued", "queued"]
    assert run("jobs", "cancel", "--state", "queued") == 0
    assert [job.state for job in ledger.list()] == ["dead", "cancelled", "cancelled"]
    for command in ("retry", "cancel"):
        for words in ([], ["1", "--state", "failed"], ["1", "--model", "digits"], ["--model", "digits"]):
            assert run("jobs", command, *words) == 2


def test_promotions_that_no_worker_has_fetched_are_told(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("REGISTRY_EXPORT_OUTBOX_URI", uri)
    assert run("jobs") == 0
    assert "outbox" not in capsys.readouterr().err
    engine = sqlalchemy.create_engine(uri)
    create_outbox(engine)
    with engine.begin() as connection:
        row = {"event": "e", "model_name": "m", "version": "1", "trigger": "stage:Staging", "created_at_ms": 0}
        connection.execute(outbox.insert().values(row))
    engine.dispose()
    assert run("jobs") == 0
    assert "in the outbox that no worker has fetched yet: 1." in capsys.readouterr().err


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize("word", ["7", "0", "x"])
def test_a_job_that_is_not_there_is_a_sentence(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("show", "retry", "cancel"):
        assert run("jobs", command, word) == 2
        assert word in capsys.readouterr().err


def test_check_tells_how_many_rules_a_file_has_and_where_one_is_not_understood(capsys, tmp_path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("rules:\n  - models: '*'\n    targets: [onnx]\n")
    bad.write_text("rules:\n  - models: '*'\n    targets: [onx]\n")
    for files, code in (([good], 0), ([good, bad], 2), ([], 2)):
        with pytest.raises(SystemExit) as ended:
            main(["check", *map(str, files)])
        assert ended.value.code == code
    printed = capsys.readouterr()
    assert f"{good}: 1 rule, understood." in printed.out
    assert f"{bad}:3: rules[0].targets[0]: unknown format 'onx'" in printed.err


def test_a_page_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from registry_export import looking

    monkeypatch.setattr(looking, "inspect", lambda *_, **__: ("a.onnx", Contents("onnx", 1)))
    page = tmp_path / "page.html"
    assert run("inspect", "a.onnx", "--html", str(page)) == 0
    assert "onnx" in page.read_text(encoding="utf-8")
    assert run("inspect", "a.onnx", "--html", str(tmp_path / "absent" / "page.html")) == 2
    assert "page.html cannot be written: No such file or directory." in capsys.readouterr().err
