"""A site that a module has to itself, and what an export is given besides its version.

The site's processes are killed, and its server with them. Modules that kill none share a server: their `server` is it.
"""

from __future__ import annotations

import pytest

from registry_export.ledger import KnownExports
from tests.support.nursery import Nursery
from tests.support.planted_versions import planted_versions
from tests.support.server import MlflowServer
from tests.support.site import site_in


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with MlflowServer(tmp_path_factory.mktemp("site-server")) as server:
        yield server


@pytest.fixture(scope="module")
def versions(server, tmp_path_factory):
    with planted_versions(server.uri, tmp_path_factory.mktemp("site-site")) as versions:
        yield versions


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as nursery:
        yield nursery


@pytest.fixture
def site(versions, nursery, server, tmp_path):
    with site_in(tmp_path, versions, nursery, server) as site:
        yield site


@pytest.fixture
def index(ledger):
    return KnownExports(ledger.database)


@pytest.fixture
def name(request):
    """A model's: no other test has it."""
    return request.node.name.removeprefix("test_")[:60]
