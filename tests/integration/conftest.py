"""A site that a module has to itself: its processes are killed, and its server with them."""

from __future__ import annotations

import pytest

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
