"""The plots of the report: what they say, whose colours they have, and what cannot break them."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from registry_export.entities import Distribution, Latency, Status, Verification
from registry_export.report import plots, to_html
from registry_export.report.html import latency_bars, size_bars
from tests.support import affine
from tests.unit.test_report import REF, page

FOUND = Distribution(
    elements=8,
    equal=2,
    edges=(1e-7, 1e-6, 1e-5, 1e-4),
    counts=(3, 2, 1),
    allowed=(1e-6, 1e-5),
    expected=(-1.0, 0.5, 2.0),
    actual=(-1.0, 0.25, 2.0),
)
NAME = "$a$ <b>&\"'"


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter() if element.tag == "text"]


@pytest.mark.parametrize("draw", [plots.differences, plots.agreement])
def test_a_plot_takes_the_pages_colours_and_refers_to_nothing(draw):
    svg = draw(NAME, FOUND)
    root = ElementTree.fromstring(svg)
    assert (root.tag, root.get("role")) == ("svg", "img")
    assert NAME in root.get("aria-label")
    assert not re.search(r"url\(|http|href|<style|\bid=|#0000", svg)
    assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)) - {"none"} <= {
        f"var(--{name})" for name in ("ink", "soft", "line", "accent", "verified", "mismatch", "second")
    }


def test_differences_stand_beside_what_was_allowed_and_those_beyond_in_another_colour():
    assert {"|actual − expected|", "elements", "allowed", "10⁻⁵", "1"} <= set(texts(plots.differences("y", FOUND)))
    assert "--mismatch" in plots.differences("y", FOUND)
    within = Distribution(8, 2, FOUND.edges, FOUND.counts, (1e-6, 1e-3))
    assert "--mismatch" not in plots.differences("y", within)
    unjudged = Distribution(8, 2, FOUND.edges, FOUND.counts)
    assert "allowed" not in texts(plots.differences("y", unjudged))


def test_a_single_allowance_is_one_line():
    def lines(allowed):
        svg = plots.differences("y", Distribution(8, 2, FOUND.edges, FOUND.counts, allowed))
        return len(re.findall(r'style="fill: none; stroke: var\(--verified\)', svg))

    assert (lines((1e-6, 1e-6)), lines((1e-6, 1e-5))) == (1, 2)


def test_each_element_is_a_dot():
    assert plots.agreement("y", FOUND).count(" h 0") == len(FOUND.expected)


def test_where_nothing_differs_there_is_no_plot_of_differences():
    equal = Distribution(3, 3, expected=(1.0, 2.0, 3.0), actual=(1.0, 2.0, 3.0))
    assert plots.differences("y", equal) == ""
    assert "all equal" in to_html(affine.report(REF, shown({"y": equal})))


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    "found",
    [
        Distribution(1, 0, (1.0,), (1,)),
        Distribution(1, 0, (2.0, 1.0), (1,)),
        Distribution(1, 0, (0.0, 1.0), (1,)),
        Distribution(1, 0, (NAN, 1.0), (1,)),
        Distribution(1, 0, (1.0, INF), (1,)),
        Distribution(1, 0, (1.0, 2.0), (-5,)),
        Distribution(1, 0, (1.0, 2.0), (0,)),
        Distribution(1, 0, (1.0, 2.0), (10**400,)),
        Distribution(1, 0, (1.0, 2.0), (1,), (NAN, INF)),
        Distribution(1, 0, (5e-324, 1.7e308), (1,), (1e-5,)),
        Distribution(1, 0, tuple(map(float, range(1, 100_002))), (1,) * 100_000),
        Distribution(1, expected=(NAN,), actual=(1.0,)),
        Distribution(1, expected=(-1.7e308, 1.7e308), actual=(1.7e308, -1.7e308)),
        Distribution(1, expected=(3.0,), actual=(3.0,)),
        Distribution(1, expected=(1.0,) * 100_000, actual=(1.0,) * 100_000),
    ],
)
def test_a_report_that_was_read_may_say_anything(found):
    assert len(plots.differences("y", found) + plots.agreement("y", found)) < 100_000


def shown(distributions, **changes):
    result = affine.result("onnx", size_bytes=500, **changes)
    verification = Verification(Status.VERIFIED, latency_ms=0.2, latency_p90_ms=0.3, distributions=distributions)
    return replace(result, verification=verification)


def test_bars_stand_for_the_source_and_every_export_in_proportion():
    report = affine.report(REF, shown({}))
    source = replace(report.source, latency=Latency(0.4, 0.6, 100, 1), checkpoint_bytes=1000)
    report = replace(report, source=source)
    assert {"source", "onnx", "0.4 ms", "0.2 ms"} <= set(texts(latency_bars(report)))
    assert {"1.0 kB", "500 B (50 %)"} <= set(texts(size_bars(report)))
    of_source, of_export = widths(size_bars(report))
    assert of_export == pytest.approx(of_source / 2, rel=0.01)


def widths(svg):
    """Widths of the bars, which are paths of a rectangle each."""
    bars = re.findall(r'd="M ([\d.]+) [\d.]+ L ([\d.]+) [^"]*" style="fill: var\(--(?:second|accent)\)', svg)
    return [float(right) - float(left) for left, right in bars]


def test_without_a_time_or_a_size_there_are_no_bars():
    report = affine.report(REF, affine.result("onnx", Status.FAILED, verification=None, size_bytes=None))
    assert latency_bars(report) == size_bars(report) == ""


def test_a_page_with_plots_fetches_nothing_and_runs_nothing():
    report = affine.report(REF, shown({NAME: FOUND}))
    found, text = page(report), to_html(report)
    assert not found.fetched
    assert "<b>&" not in text
    assert NAME in found.text
    assert not re.search(r"url\(|@import|https?://", text)


def test_drawing_touches_no_setting_of_the_callers_and_opens_no_window():
    code = """
import sys, matplotlib
matplotlib.rcParams["svg.fonttype"] = "path"
own = {name for name in matplotlib.rcParams if name != "backend"}  # which is chosen when it is looked at
before = {name: matplotlib.rcParams[name] for name in own}
from registry_export.report import plots
from tests.unit.test_plots import FOUND
assert plots.differences("y", FOUND) and plots.agreement("y", FOUND)
assert "matplotlib.pyplot" not in sys.modules
assert {name: matplotlib.rcParams[name] for name in own} == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_report_that_was_prepared_compiles_and_imports_nothing_more():
    code = """
import sys
from registry_export.report import draw_ahead, prepare_report, to_html
from tests.unit.test_plots import FOUND, REF, affine, shown
prepare_report()
result = shown({"y": FOUND})
draw_ahead(result)
before = set(sys.modules)
import jinja2
jinja2.Environment.compile = None
to_html(affine.report(REF, result))
late = {name for name in set(sys.modules) - before if name.startswith(("matplotlib", "jinja2"))}
assert not late, late
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_drawn_with_before_there_is_something_to_draw():
    code = "import sys, registry_export.report.plots; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
