"""What gates require, read from a file that changes, breaks and is broken at the start; on every database."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy

from registry_export import gate_rules
from registry_export.gate_rules import GateRules

RULES = """
rules:
  - models: "plain-*"
    targets: [onnx]
    require: {stages: [Production], targets: [onnx]}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A file of rules, as a server knows it."""
    place = tmp_path / "rules.yaml"
    place.write_text(RULES)
    monkeypatch.setattr(gate_rules, "places", lambda: (str(place),))
    return place


def is_gated(rules, connection=None):
    return rules.now(connection).of("plain-1", "stage:Production") is not None


def test_a_file_that_could_not_be_opened_once_is_read_with_the_next_promotion(place, monkeypatch):
    rules = GateRules()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        assert not is_gated(rules)
    assert is_gated(rules)
    with monkeypatch.context() as patch:
        patch.setattr(gate_rules.os, "stat", lambda _: (_ for _ in ()).throw(OSError(116, "Stale file handle")))
        patch.setattr(Path, "read_bytes", lambda _: (_ for _ in ()).throw(OSError(116, "Stale file handle")))
        assert is_gated(rules), "a look that fails finds no file gone"


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request, tmp_path, postgres_uri):
    uri = postgres_uri() if request.param == "postgresql" else f"sqlite:///{tmp_path / 'registry.db'}"
    engine = sqlalchemy.create_engine(uri)
    yield engine
    engine.dispose()


def test_a_server_that_starts_with_a_broken_file_has_the_gates_of_before(engine, place, caplog):
    running = GateRules()
    with engine.connect() as connection:
        assert is_gated(running, connection)
        connection.rollback()  # a promotion that was refused
    for _ in range(3):
        with engine.begin() as connection:
            assert is_gated(running, connection)
    place.write_text(RULES + "  - models: [")
    with engine.begin() as connection:
        assert is_gated(GateRules(), connection)
    assert "Gates go by what was kept of the file of rules" in caplog.text
    place.write_text("rules: []")
    for _ in range(2):
        with engine.begin() as connection:
            assert not is_gated(running, connection)
    place.write_text("rules: [")
    with engine.begin() as connection:
        assert not is_gated(GateRules(), connection), "gates that were taken away do not come back"


def test_a_server_that_never_knew_the_rules_says_so_at_its_start_and_with_every_promotion(engine, place, caplog):
    place.write_text("rules: [")
    rules = GateRules()
    rules.now()
    assert "Gates do not know what is required" in caplog.text
    for number in (1, 2):
        with engine.begin() as connection:
            assert not is_gated(rules, connection)
            assert connection.execute(sqlalchemy.text("SELECT 1")).scalar() == 1
        assert caplog.text.count("NO GATE IS CLOSED") == number
    place.write_text(RULES)
    with engine.begin() as connection:
        assert is_gated(rules, connection)


def test_the_rules_are_read_before_the_first_promotion(monkeypatch, place):
    from sqlalchemy import event
    from sqlalchemy.orm import Mapper

    from registry_export import hook

    assert event.contains(Mapper, "after_configured", hook._prepare_gates), "when MLflow opens its first store"
    rules = GateRules()
    monkeypatch.setattr(gate_rules, "rules", rules)
    hook._prepare_gates()
    monkeypatch.setattr(gate_rules, "_requirements_of", lambda _: pytest.fail("read in a promotion's transaction"))
    assert is_gated(rules)
