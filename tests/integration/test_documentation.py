"""The documentation builds into a site that is whole and needs nobody else's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FETCHED = re.compile(
    r"""<(script|img|iframe|source)\b[^>]*\bsrc=["']?(https?:)?//"""
    r"""|<link\b[^>]*rel=["']?(stylesheet|preconnect|preload)[^>]*href=["']?(https?:)?//"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="needs the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_fetches_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").rglob("*.md")))
    assert [page.name for page in pages if FETCHED.search(page.read_text())] == []
    assert not any("url(http" in sheet.read_text() for sheet in site.rglob("*.css"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "anchors"),
    [
        (
            "reference/python.html",
            ["registry_export.export", "registry_export.load", "registry_export.errors.PlanError"],
        ),
        ("reference/formats.html", ["registry_export.format.Format.describe", "registry_export.format.Toolchain"]),
        ("reference/commands.html", ["registry-export-export", "registry-export-jobs-retry"]),
        ("project/index.html", ["when-something-is-wrong"]),
        ("project/examples/keras_model/index.html", ["a-keras-model"]),
    ],
)
def test_the_reference_says_what_code_and_checkout_say(site, page, anchors):
    text = (site / page).read_text()
    for anchor in anchors:
        assert f'id="{anchor}"' in text, anchor


@pytest.mark.slow
def test_links_of_the_checkout_lead_to_the_sites_pages(site):
    assert 'href="project/examples/dask_cluster/index.html"' in (site / "operations.html").read_text()
    assert 'href="../operations.html#a-dask-cluster"' in (site / "project/index.html").read_text()
