"""From a figure of matplotlib's to SVG inside the page, in the page's own colours and letters.

Drawn through matplotlib's objects, without pyplot: nothing that a caller's own plots look like is touched, and no
window is ever asked for. It is imported when the first plot is drawn, or ahead of it by `prepare_plots`.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, SOFT, LINE, MARK, ALLOWED, BEYOND, SECOND = (f"#00000{digit}" for digit in range(1, 8))
"""Colours to draw with: each stands for one of the page's, light or dark."""

_VARIABLES = dict(
    zip(
        (INK, SOFT, LINE, MARK, ALLOWED, BEYOND, SECOND),
        ("--ink", "--soft", "--line", "--accent", "--verified", "--mismatch", "--second"),
        strict=True,
    )
)

LETTERS = 10.0
"""Size of the text in a plot, in its own units."""

_UNITS_PER_INCH = 72
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "registry-export",
    "font.family": "DejaVu Sans",
    "font.size": LETTERS,
    "text.parse_math": False,  # a name with two dollar signs is a name
    "text.usetex": False,
    "axes.linewidth": 0.8,
    "path.simplify": False,
}

_DECIMALS = re.compile(r"\d+\.\d+")

_DOT = re.compile(r"M (\S+ \S+) L \1(?= |$)")

_drawing = threading.Lock()
"""matplotlib's settings are the process's."""


def prepare_plots() -> None:
    """Import what plots are drawn with, which takes a third of a second of a core once."""
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401


def drawn(draw: Callable[[Axes], None], width: float, height: float, title: str) -> str:
    """Draw a plot and return it as an `<svg>` element for the body of a page, its text escaped.

    Args:
        draw: Draws into the axes it is given, which reach the edges but for margins that it may change, in the
            colours above. What it draws is not clipped.
        width: In units of which a letter has `LETTERS`; the page scales it.
        height: The same.
        title: What it shows, for who cannot see it.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    written = io.StringIO()
    with _drawing, matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width / _UNITS_PER_INCH, height / _UNITS_PER_INCH), dpi=_UNITS_PER_INCH)
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(LINE)
        axes.patch.set_visible(False)
        axes.tick_params(length=0, pad=4, labelcolor=SOFT)
        draw(axes)
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return _inlined(written.getvalue(), title)


def placed(axes: Axes, *, left: float, right: float, bottom: float, top: float) -> None:
    """Give axes their margins, in units of the plot."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches() * _UNITS_PER_INCH
    axes.set_position((left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height))


def _inlined(document: str, title: str) -> str:
    root = ElementTree.fromstring(document)  # noqa: S314  written a moment ago, by matplotlib
    for element in root.iter():
        for child in [child for child in element if _local(child.tag) in ("metadata", "defs")]:
            element.remove(child)
    _cleaned(root)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "class": "plot", "aria-label": title}
    return ElementTree.tostring(root, encoding="unicode")


def _cleaned(element: ElementTree.Element) -> None:
    """Take away what a page has no use for: namespaces, names that other plots have too, fonts."""
    element.tag = _local(element.tag)
    element.tail = None
    if element.tag != "text":
        element.text = None
    kept = {_local(name): value for name, value in element.attrib.items() if _local(name) not in ("id", "clip-path")}
    if "style" in kept:
        kept["style"] = _style(kept["style"])
    if kept.get("transform", "").startswith("rotate(-0 "):
        del kept["transform"]
    for place in {"x", "y"} & kept.keys():
        kept[place] = f"{float(kept[place]):.1f}"
    if "d" in kept:
        path = _DECIMALS.sub(lambda found: f"{float(found[0]):.1f}", " ".join(kept["d"].split()))
        kept["d"] = _DOT.sub(r"M \1 h 0", path)
    element.attrib = {name: value for name, value in kept.items() if value}
    for child in element:
        _cleaned(child)


def _style(style: str) -> str:
    declarations = [part.strip() for part in style.split(";") if not part.strip().startswith("font")]
    text = "; ".join(filter(None, declarations))
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text


def _local(name: str) -> str:
    return name.rpartition("}")[2]
