"""What the ledger knows of published exports, on every database that can keep it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from registry_export.entities import ModelVersionRef
from registry_export.ledger import KnownExport, KnownExports, Ledger
from registry_export.ledger.tables import known_exports

ONE, TWO = ModelVersionRef("digits", "1"), ModelVersionRef("digits", "2")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path, postgres_uri):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}" if request.param == "sqlite" else postgres_uri())
    ledger.migrate()
    yield ledger.database
    ledger.dispose()


@pytest.fixture
def known(database):
    return KnownExports(database)


def export(key="key", ref=ONE, variant="onnx", digest="digest"):
    return KnownExport(key, ref, variant, digest, f"of {digest}")


def test_what_is_remembered_is_found_by_its_key_alone(known):
    known.remember([export(), export("other", variant="tflite")])
    assert known.find(["key", "unheard of"]) == {"key": (export(),)}
    assert known.find([]) == {}


def test_of_several_exports_with_one_key_the_one_used_last_comes_first(known):
    known.remember([export(ref=ONE), export(ref=TWO)])
    assert known.find(["key"])["key"] == (export(ref=TWO), export(ref=ONE))
    time.sleep(0.01)  # the database's clock counts milliseconds
    known.remember([export(ref=ONE)])
    assert known.find(["key"])["key"][0] == export(ref=ONE)


def test_a_variant_that_is_made_anew_is_not_found_by_what_it_was(known):
    known.remember([export("before")])
    known.remember([export("after", digest="another")])
    assert known.find(["before", "after"]) == {"after": (export("after", digest="another"),)}


def test_only_what_is_named_is_forgotten(known):
    known.remember([export(), export(variant="tflite"), export(ref=TWO)])
    known.forget(ONE, ["onnx", "unheard of"])
    known.forget(ONE, [])
    assert set(known.find(["key"])["key"]) == {export(variant="tflite"), export(ref=TWO)}


def test_the_least_recently_used_are_forgotten(database):
    known = KnownExports(database, most=3)
    known.remember([export(f"{number}", variant=f"v{number}") for number in range(3)])
    time.sleep(0.01)  # the database's clock counts milliseconds
    known.remember([export("0", variant="v0")])
    known.remember([export("3", variant="v3")])
    assert set(known.find(["0", "1", "2", "3"])) == {"0", "2", "3"}
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(known_exports)).scalar() == 3


def test_workspaces_do_not_see_each_other(database):
    KnownExports(database, "blue").remember([export(digest="blue")])
    red, none = KnownExports(database, "red"), KnownExports(database)
    red.forget(ONE, ["onnx"])
    assert red.find(["key"]) == none.find(["key"]) == {}
    assert KnownExports(database, "blue").find(["key"])["key"] == (export(digest="blue"),)


def test_workers_that_publish_the_same_at_once_leave_one_entry(database):
    def publish(number):
        KnownExports(database).remember([export(digest=str(number))])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(publish, range(32)))
    assert len(KnownExports(database).find(["key"])["key"]) == 1
