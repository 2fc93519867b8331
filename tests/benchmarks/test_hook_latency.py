"""What the hook adds to a stage transition over REST: two servers, with and without it, asked in turns in one run."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from contextlib import ExitStack

import pytest
from mlflow import MlflowClient

from tests.benchmarks.figures import Figure
from tests.support.server import MlflowServer

AT_MOST = 1.15
_CALLED = {"sqlite": "SQLite", "postgresql": "PostgreSQL through psycopg2"}
_WARM_UP = 20
_CALLS = 500


class Transitions:
    """Moves one version to and fro on one kept connection."""

    def __init__(self, server):
        self.client = client = MlflowClient(server.uri)
        client.create_registered_model("digits")
        run = client.create_run("0")
        client.create_model_version("digits", f"{run.info.artifact_uri}/model", run.info.run_id)
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port)
        self._stages = ("Staging", "Production")
        self.seconds = []

    def once(self):
        self._stages = self._stages[::-1]
        body = {"name": "digits", "version": "1", "stage": self._stages[0], "archive_existing_versions": False}
        began = time.perf_counter()
        self._connection.request(
            "POST",
            "/api/2.0/mlflow/model-versions/transition-stage",
            json.dumps(body),
            {"Content-Type": "application/json"},
        )
        answer = self._connection.getresponse()
        content = answer.read()
        self.seconds.append(time.perf_counter() - began)
        assert answer.status == 200, content


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_the_hook_adds_little_to_a_transition(backend, tmp_path, postgres_uri):
    # A package of the same name, found first, in which the entry point does nothing.
    hookless = tmp_path / "hookless" / "registry_export"
    hookless.mkdir(parents=True)
    (hookless / "__init__.py").touch()
    (hookless / "hook.py").write_text("def attach_to_mlflow(): pass\n")
    with ExitStack() as stack:

        def start(name, environ):
            uri = None if backend == "sqlite" else postgres_uri()
            return Transitions(stack.enter_context(MlflowServer(tmp_path / name, database_uri=uri, environ=environ)))

        hooked, plain = start("hooked", {}), start("plain", {"PYTHONPATH": str(hookless.parent)})
        for _ in range(_WARM_UP + _CALLS):
            plain.once()
            hooked.once()
        tags = [side.client.get_model_version("digits", "1").tags for side in (hooked, plain)]
        queued = {"registry_export.status": "queued", "registry_export.trigger": "stage:Staging"}
        assert tags == [queued, {}], "one of the servers is not what it should be"
    with_hook, without = (statistics.median(side.seconds[_WARM_UP:]) for side in (hooked, plain))
    Figure(
        name=f"hook-{backend}",
        what=f"the REST call of a stage transition with the hook, over without it, {_CALLED[backend]}",
        measured=with_hook / without,
        limit=AT_MOST,
        scale=f"{1000 * with_hook:.2f} ms; without {1000 * without:.2f} ms",
        baseline="a server in which the hook's entry point does nothing",
        how=f"two servers in turns, median of {_CALLS} after {_WARM_UP} to warm up",
    ).record()
