"""What a person sees and clicks: a promotion in the old registry UI, its exports on the new one's page."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from registry_export.entities import ModelVersionRef
from registry_export.errors import ModelVersionNotFoundError
from registry_export.registry import Registry
from tests.support.authors import authors
from tests.support.registered import TORCH
from tests.support.server import MlflowServer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCREENSHOTS = Path(os.environ.get("REGISTRY_EXPORT_SCREENSHOTS", "") or os.devnull)
"""Where the pictures of the documents are made anew; by default none are kept."""

_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
_FLAGS += ["--disable-component-update", "--disable-sync", "--no-first-run"]
_OLD_UI = "localStorage.setItem('_mlflow_user_setting_dismiss_next_model_registry_ui', 'true')"

_RULES = """
rules:
  - models: "gated"
    targets: [onnx]
    require: {stages: [Production], aliases: [live], targets: [onnx]}
  - models: "*"
    promotions: {stages: [Staging, Production], aliases: [champion], copied: true}
    targets: [onnx, "onnx:opset_version=17", torchscript, exported_program]
"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: nobody looked at the pages"),
]


class Site:
    """A server with a registered model, a worker, and a browser."""

    def __init__(self, server: MlflowServer, browser):
        self.server, self.browser = server, browser
        self.registry = Registry(server.uri)

    def page(self, *, old: bool = False, width: int = 1280, height: int = 1000, colours: str = "light"):
        context = self.browser.new_context(viewport={"width": width, "height": height}, color_scheme=colours)
        if old:
            context.add_init_script(_OLD_UI)
        page = context.new_page()
        page.set_default_timeout(30_000)
        return page

    def open_version(self, page, ref: ModelVersionRef) -> None:
        page.goto(f"{self.server.uri}/#/models/{ref.name}/versions/{ref.version}")
        page.get_by_text(f"Version {ref.version}", exact=True).first.wait_for()

    def await_status(self, ref: ModelVersionRef, wanted: str) -> None:
        deadline = time.monotonic() + 180
        status = ""
        while time.monotonic() < deadline and status != wanted:
            with contextlib.suppress(ModelVersionNotFoundError):  # a click returns before the server has answered
                status = self.registry.version(ref).tags.get("registry_export.status", "")
            time.sleep(0.5)
        assert status == wanted


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    from playwright.sync_api import sync_playwright

    folder = tmp_path_factory.mktemp("browser")
    (folder / "rules.yaml").write_text(_RULES)
    os.environ["PYTHONPATH"] = str(Path.cwd())
    rules = {"REGISTRY_EXPORT_CONFIG": str(folder / "rules.yaml")}
    with MlflowServer(folder / "server", environ=rules) as server, sync_playwright() as playwright:
        for name in ("digits", "gated"):
            arguments = {"uri": server.uri, "name": name}
            authors().call(TORCH, "tests.support.registered:pickled", arguments, folder)
        environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": server.uri,
            "REGISTRY_EXPORT_OUTBOX_URI": server.database_uri,
            **rules,
        }
        with (folder / "worker.log").open("wb") as log:
            command = [sys.executable, "-m", "registry_export.cli", "worker"]
            worker = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        try:
            yield Site(server, browser)
        finally:
            browser.close()
            worker.terminate()
            worker.wait(30)
            del os.environ["PYTHONPATH"]


DIGITS = ModelVersionRef("digits", "1")


@pytest.fixture(scope="module")
def promoted(site):
    """Promote in the old UI, as a person does, and wait for the exports."""
    page = site.page(old=True)
    site.open_version(page, DIGITS)
    page.get_by_text("None", exact=True).first.click()
    page.get_by_text("Staging", exact=True).first.click()
    page.get_by_role("button", name="OK").click()
    site.await_status(DIGITS, "verified")
    page.context.close()
    return DIGITS


_AT_REST = """document.getAnimations().every(
    one => one.playState !== "running" || one.effect.getComputedTiming().iterations === Infinity)"""
_OPAQUE = """one => {
    for (let at = one; at; at = at.parentElement) if (getComputedStyle(at).opacity !== "1") return false;
    return true;
}"""


def _close_assistant(page) -> None:
    """Close what takes a third of the width."""
    close = page.get_by_role("button", name="Close")
    if close.count():
        close.first.click()
        page.wait_for_timeout(500)


def _picture(page, name: str) -> None:
    if SCREENSHOTS.is_dir():
        _close_assistant(page)
        page.wait_for_function(_AT_REST)
        page.screenshot(path=SCREENSHOTS / name)


def test_a_click_in_the_old_ui_leads_to_verified_exports(site, promoted):
    tags = site.registry.version(promoted).tags
    assert tags["registry_export.trigger"] == "stage:Staging"


def test_the_new_ui_shows_the_table_and_the_tags(site, promoted):
    page = site.page()
    site.open_version(page, promoted)
    page.get_by_role("table").filter(has_text="onnx-opset17").first.wait_for()
    body = page.inner_text("body")
    for text in ("onnx-opset17", "torchscript", "exported_program", "verified", "registry_export.status"):
        assert text in body, body
    assert "registry-export:begin" not in body
    page.wait_for_timeout(500)
    _picture(page, "version-page.png")
    page.context.close()


def test_the_tables_link_opens_the_report(site, promoted):
    page = site.page()
    site.open_version(page, promoted)
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Report").first.click()
    page = opened.value
    page.get_by_text("exports", exact=True).first.wait_for()
    page.get_by_text("exports", exact=True).first.click()
    page.get_by_text("report.html", exact=True).first.click()
    frame = page.frame_locator("iframe").first
    frame.get_by_text("onnx-opset17").first.wait_for()
    frame.get_by_role("img", name="Time of one call").wait_for()  # the viewer's sandbox runs no script
    page.wait_for_timeout(500)
    _picture(page, "report-in-mlflow.png")
    page.context.close()


@pytest.fixture(scope="module")
def report(site, promoted, tmp_path_factory):
    return site.registry.download_artifact(promoted, "exports/report.html", tmp_path_factory.mktemp("report")).as_uri()


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_stands_alone_and_fits_the_width(site, report, width, colours):
    page = site.page(width=width, height=2300 if width > 400 else 2600, colours=colours)
    requests, said = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(report)
    page.get_by_text("onnx-opset17").first.wait_for()
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert said == []
    page.locator("details:not([open]) > summary").evaluate_all("all => all.forEach(one => one.click())")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.goto(report)
    if colours == "light":
        _picture(page, f"report-{width}.png")
    page.context.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_plots_stay_inside_their_frames_and_can_be_read(site, report, width):
    page = site.page(width=width)
    page.goto(report)
    page.get_by_role("img", name="Differences of the output").first.wait_for()
    for name in ("Expected against actual", "Time of one call", "Size"):
        assert page.get_by_role("img", name=name).count(), name
    outside = """all => all.flatMap(plot => {
        const frame = plot.getBoundingClientRect();
        return [...plot.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()])
            .filter(([_, box]) => box.left < frame.left - 1 || box.right > frame.right + 1
                || box.top < frame.top - 1 || box.bottom > frame.bottom + 1 || box.height < 8)
            .map(([text, box]) => `${text} at ${box.left} to ${box.right}, ${box.height} high`);
    })"""
    assert page.locator("svg.plot").evaluate_all(outside) == []
    page.context.close()


def test_the_colours_of_the_plots_follow_the_page(site, report):
    def colour(colours):
        page = site.page(colours=colours)
        page.goto(report)
        bar = page.get_by_role("img", name="Size").first.locator("[style*=accent]").first
        found = bar.evaluate("bar => getComputedStyle(bar).fill")
        page.context.close()
        return found

    assert colour("light") != colour("dark")


def test_the_printed_report_is_light_and_shows_what_is_folded_away(site, report, tmp_path):
    page = site.page(width=794, colours="dark")  # the width of A4
    page.goto(report)
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert sum(map(int, ink.removeprefix("rgb(").rstrip(")").split(","))) < 200, ink
    folded = page.locator("details:not([open])").first
    assert folded.evaluate("one => one.getBoundingClientRect().height") > 60
    assert page.evaluate("document.documentElement.scrollWidth") <= 794
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    page.context.close()


def test_the_new_uis_promote_button_exports_the_copy(site, promoted):
    import mlflow

    mlflow.MlflowClient(site.server.uri).create_registered_model("digits-prod")
    page = site.page()
    site.open_version(page, promoted)
    page.get_by_role("button", name="Promote model").click()
    page.get_by_role("dialog").get_by_role("combobox").first.click()
    page.get_by_text("digits-prod").last.click()
    page.get_by_role("dialog").get_by_role("button", name="Promote").click()
    copied = ModelVersionRef("digits-prod", "1")
    site.await_status(copied, "verified")
    assert site.registry.version(copied).tags["registry_export.trigger"] == "copied:digits/1"
    page.context.close()


def test_the_ui_shows_why_a_gate_refuses_a_stage_and_an_alias(site, promoted):
    ref = ModelVersionRef("gated", "1")
    page = site.page(old=True)
    site.open_version(page, ref)
    _close_assistant(page)
    page.get_by_text("None", exact=True).first.click()
    page.get_by_text("Production", exact=True).first.click()
    page.get_by_role("button", name="OK").click()
    refused = page.get_by_text("gated/1 was not promoted to Production: that requires verified exports (onnx)").first
    refused.wait_for()
    assert "it has no verified onnx." in refused.inner_text()
    page.get_by_role("button", name="OK").wait_for(state="hidden")
    page.wait_for_function(_OPAQUE, arg=refused.element_handle())
    if SCREENSHOTS.is_dir():
        page.wait_for_function(_AT_REST)
        page.screenshot(path=SCREENSHOTS / "gate-refusal.png", clip={"x": 0, "y": 0, "width": 1280, "height": 480})
    page.context.close()
    page = site.page()
    site.open_version(page, ref)
    page.get_by_title("Add aliases").click()
    page.get_by_role("dialog").get_by_role("combobox").fill("live")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Save aliases").click()
    page.get_by_text("gated/1 was not promoted to the alias live").first.wait_for()
    page.context.close()
    info = site.registry.version(ref)
    assert (info.stage, info.aliases) == ("None", ())
