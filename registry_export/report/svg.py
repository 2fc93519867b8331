"""A plot as SVG inside the page, in the page's own colours and letters: lines, areas, dots and words over two axes.

Written here and by no plotting library: a page needs some dozen elements of each plot, and an export of ten targets
draws twenty plots while it works. matplotlib took 25 ms of a core for each, and a third of a second to be imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

INK, SOFT, LINE, MARK, ALLOWED, BEYOND, SECOND = (
    f"var(--{name})" for name in ("ink", "soft", "line", "accent", "verified", "mismatch", "second")
)
"""The page's colours, light or dark."""

LETTERS = 10.0
"""Size of the text in a plot, in its own units."""

_PAD = 4.0
"""Between an axis and the words at its ticks."""
_MIDDLE = 0.35
"""Of the size of letters: how far below their middle the line is that they stand on."""
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)

Point = tuple[float, float]
Ends = tuple[float, float]


@dataclass(frozen=True)
class Margins:
    """What lies between the axes and the edges of a plot, in its own units."""

    left: float
    right: float
    bottom: float
    top: float


class Plot:
    """A plot that is being drawn; what is drawn later covers what was drawn before. Nothing is clipped.

    Args:
        width: In units of which a letter has `LETTERS`; the page scales it.
        height: The same.
        title: What it shows, for who cannot see it.
        margins: Around the axes.
        x: The values at the left and the right end of the axes.
        y: The values at the lower and the upper end of the axes.

    Raises:
        ValueError: An end is no number, or both are the same.
    """

    def __init__(self, width: float, height: float, title: str, margins: Margins, x: Ends, y: Ends) -> None:
        self.x, self.y = x, y
        self._left, self._right = margins.left, width - margins.right
        self._top, self._bottom = margins.top, height - margins.bottom
        if not all(math.isfinite(high - low) and low != high for low, high in (x, y)):
            raise ValueError(f"no axes reach from {x[0]:g} to {x[1]:g} and from {y[0]:g} to {y[1]:g}")
        box = f"0 0 {width:g} {height:g}"
        attributes = {"viewBox": box, "role": "img", "class": "plot", "aria-label": title}
        self._root = ElementTree.Element("svg", attributes)

    def line(self, points: Iterable[Point], colour: str, width: float = 1.0, *, dotted: bool = False) -> None:
        """Draw a line from point to point; `dotted`: a dot of that width at each point, and no line."""
        placed = [self._place(point) for point in points]
        path = " ".join(f"M {at} h 0" for at in placed) if dotted else f"M {' L '.join(placed)}"
        caps = "; stroke-linecap: round" if dotted else ""
        self._add("path", f"fill: none; stroke: {colour}; stroke-width: {width:g}{caps}", d=path)

    def area(self, corners: Iterable[Point], colour: str, opacity: float = 1.0) -> None:
        """Fill what lies between corners."""
        seen = "" if opacity == 1 else f"; opacity: {opacity:g}"
        self._add("path", f"fill: {colour}{seen}", d=f"M {' L '.join(map(self._place, corners))} z")

    def words(self, text: str, at: Point, offset: Point, colour: str, anchor: str = "start") -> None:
        """Write beside a point.

        Args:
            text: What; any characters.
            at: The point, as values.
            offset: From there to where the words begin, or end with the anchor `end`, in units to the right and up.
            colour: Of the letters.
            anchor: `start`, `middle` or `end`.
        """
        self._write(text, self._across(at[0]) + offset[0], self._up(at[1]) - offset[1], colour, anchor)

    def axis_below(self, ticks: Sequence[tuple[float, str]], name: str = "", *, grid: bool = False) -> None:
        """Draw the horizontal axis with its ticks, and its name below them."""
        for value, text in ticks:
            if grid:
                self.line([(value, self.y[0]), (value, self.y[1])], LINE, 0.5)
            self._write(text, self._across(value), self._bottom + _PAD + 0.8 * LETTERS, SOFT, "middle")
        self._axis((self.x[1], self.y[0]))
        self._write(name, (self._left + self._right) / 2, self._bottom + _PAD + 2.0 * LETTERS, SOFT, "middle")

    def axis_beside(self, ticks: Sequence[tuple[float, str]], name: str = "", *, grid: bool = False) -> None:
        """Draw the vertical axis with its ticks, and its name at the upper end, to be read without turning the head."""
        for value, text in ticks:
            if grid:
                self.line([(self.x[0], value), (self.x[1], value)], LINE, 0.5)
            self._write(text, self._left - _PAD, self._up(value) + _MIDDLE * LETTERS, SOFT, "end")
        self._axis((self.x[0], self.y[1]))
        self._write(name, self._left - 30, self._top - 14, SOFT, "start")

    def written(self) -> str:
        """Return it as an `<svg>` element for the body of a page, its text escaped."""
        return ElementTree.tostring(self._root, encoding="unicode")

    def _axis(self, end: Point) -> None:
        self.line([(self.x[0], self.y[0]), end], LINE, 0.8)

    def _write(self, text: str, x: float, y: float, colour: str, anchor: str) -> None:
        if text:
            style = f"fill: {colour}; text-anchor: {anchor}"
            self._add("text", style, x=f"{x:.1f}", y=f"{y:.1f}").text = text

    def _add(self, name: str, style: str, **attributes: str) -> ElementTree.Element:
        return ElementTree.SubElement(self._root, name, {**attributes, "style": style})

    def _place(self, point: Point) -> str:
        return f"{self._across(point[0]):.1f} {self._up(point[1]):.1f}"

    def _across(self, value: float) -> float:
        low, high = self.x
        return self._left + (self._right - self._left) * (value - low) / (high - low)

    def _up(self, value: float) -> float:
        low, high = self.y
        return self._bottom - (self._bottom - self._top) * (value - low) / (high - low)


def round_ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Return round numbers between two ends, as many steps apart as `most` at most."""
    least = (high - low) / most
    size = 10.0 ** math.floor(math.log10(least))
    step = next(step * size for step in _STEPS if step * size >= least * (1 - 1e-9))
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]
