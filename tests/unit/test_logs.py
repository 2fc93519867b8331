"""What a log line looks like, and what is never in one."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import threading

import pytest

from registry_export import logs
from registry_export.logs import JSON, TEXT, about, configure_logging
from registry_export.redaction import redact

SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "Tr0ub4dor&3",
    "AWS_SECRET_ACCESS_KEY": "wJalr/XUtnFEMI+K7MDENG",
    "REGISTRY_EXPORT_OUTBOX_URI": "postgresql+psycopg2://mlflow:p%40ss%2Fword@db/mlflow",
    "TOKENIZERS_PARALLELISM": "false",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token",
    "SOME_TOKEN": "no",
    "PGPASSWORD": "hunter2222",
    "AZURE_STORAGE_CONNECTION_STRING": "AccountName=models;AccountKey=bW9kZWxz==;EndpointSuffix=example.org",
}


@pytest.fixture
def lines(monkeypatch):
    """Configure the log of this process as a command does, and return what it has written so far, line by line."""
    root, hook = logging.getLogger(), threading.excepthook
    before, written = root.handlers, io.StringIO()

    def configured(style):
        root.handlers = []
        monkeypatch.setattr("sys.stderr", written)
        configure_logging(style, debug=True)
        return lambda: written.getvalue().splitlines()

    yield configured
    root.handlers, threading.excepthook = before, hook
    logging.captureWarnings(False)


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("login failed with Tr0ub4dor&3.", "login failed with ***."),
        ("key wJalr/XUtnFEMI+K7MDENG", "key ***"),
        ("?key=wJalr%2FXUtnFEMI%2BK7MDENG", "?key=***"),
        ("the driver says p@ss/word", "the driver says ***"),
        ("hunter2222 was not accepted", "*** was not accepted"),
        ("AccountName=models;AccountKey=bW9kZWxz==;EndpointSuffix=example.org is wrong", "*** is wrong"),
        ("AccountName=others;AccountKey=b3RoZXJz==;x", "AccountName=others;AccountKey=***;x"),
        ("postgresql://me:other@db:5432/x is down", "postgresql://me:***@db:5432/x is down"),
        ("http://me:with@inside@host/ and a@b.c", "http://me:***@host/ and a@b.c"),
        ("https://ghp_abc@host/x", "https://***@host/x"),
        ("GET /f?X-Amz-Signature=abc123&part=2", "GET /f?X-Amz-Signature=***&part=2"),
        ("/d?user=me&password=hunter2 refused", "/d?user=me&password=*** refused"),
        ("Authorization: Bearer eyJhbGciOi.J9", "Authorization: Bearer ***"),
        ("Authorization: Basic bWU6cGFzc3dvcmQ=", "Authorization: Basic ***"),
    ],
)
def test_a_credential_leaves_in_no_spelling(said, left):
    assert redact(said, SECRETS) == left


@pytest.mark.parametrize(
    "said",
    [
        "http://mlflow:5000 did not answer (Connection refused).",
        "digits/3: false, no, /var/run/token",
        "sqlite:////data/ledger.db",
        "alias:champion of digits",
    ],
)
def test_what_is_no_credential_stays(said):
    assert redact(said, SECRETS) == said


def test_a_json_line_has_its_fields_and_stays_one_line(lines):
    written = lines(JSON)
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logging.getLogger("registry_export.x").exception("two\nlines", extra={"seconds": 1.5, "step": "convert"})
    (line,) = written()
    event = json.loads(line)
    assert list(event)[:4] == ["time", "level", "logger", "message"]
    assert event["time"].endswith("Z")
    assert (event["level"], event["logger"], event["message"]) == ("ERROR", "registry_export.x", "two\nlines")
    assert (event["seconds"], event["step"]) == (1.5, "convert")
    assert event["exception"].startswith("Traceback")
    assert event["exception"].endswith("ValueError: first\nsecond")


def test_what_a_job_does_in_any_thread_names_the_job_and_nothing_else_does(lines):
    written = lines(JSON)
    with about(job=7, attempt=2):
        thread = threading.Thread(target=logging.getLogger("elsewhere").warning, args=("within",))
        thread.start()
        thread.join()
        logging.getLogger("elsewhere").warning("of its own", extra={"attempt": 3})
    logging.getLogger("elsewhere").warning("after")
    within, own, after = map(json.loads, written())
    assert (within["job"], within["attempt"]) == (7, 2)
    assert own["attempt"] == 3
    assert "job" not in after


def test_a_job_that_ends_after_one_that_began_later_leaves_no_name_behind(lines):
    written = lines(JSON)
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        first.enter_context(about(job=1))
        second.enter_context(about(job=2))
        first.close()
        logging.getLogger("elsewhere").warning("of the second")
    logging.getLogger("elsewhere").warning("after")
    during, after = map(json.loads, written())
    assert during["job"] == 2
    assert "job" not in after


@pytest.mark.parametrize("style", [TEXT, JSON])
def test_no_line_carries_a_secret_wherever_it_stands(lines, style, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", 'quoted"Secret')
    written = lines(style)
    log = logging.getLogger("registry_export")
    try:
        raise ValueError("http://u:pa55word@host")
    except ValueError:
        log.exception("with quoted%sSecret", '"', extra={"status": 'quoted"Secret'})
    text = "\n".join(written())
    assert "***" in text
    assert "Secret" not in text
    assert "pa55word" not in text


def test_an_error_that_ends_a_thread_is_a_line_too(lines):
    written = lines(JSON)
    thread = threading.Thread(target=lambda: 1 / 0, name="warm")
    thread.start()
    thread.join()
    (event,) = map(json.loads, written())
    assert (event["message"], event["level"]) == ("warm ended with an error.", "ERROR")
    assert "ZeroDivisionError" in event["exception"]


def test_a_name_that_is_no_text_breaks_no_line(lines):
    written = lines(JSON)
    logging.getLogger("registry_export").warning("%s", b"caf\xe9".decode("utf-8", "surrogateescape"))
    assert json.loads(written()[0])["message"] == "caf\\udce9"


def test_a_service_tells_the_time_and_its_events_as_text(lines, monkeypatch):
    monkeypatch.setenv("MLFLOW_CONFIGURE_LOGGING", "true")
    written = lines(TEXT)
    logs.log_as_a_service()
    logging.getLogger("registry_export").info("digits/1: verified")
    (line,) = written()
    assert line[2] == line[5] == ":"
    assert line[8:] == " INFO    digits/1: verified"
