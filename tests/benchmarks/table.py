"""Write the table of the benchmarks from their results: `python -m tests.benchmarks.table docs/benchmarks.md`.

Only what stands between the page's two marks is written; the prose around it is a person's. Leaves with 1 where a
figure is missed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from registry_export.manifest import tool_versions
from tests.benchmarks.figures import Figure, number, recorded

BEGIN, END = "<!-- figures:begin -->", "<!-- figures:end -->"

ORDER = (
    "ten-formats-warm",
    "ten-formats-cold",
    "one-format-warm",
    "one-format-seconds",
    "promoted-again",
    "own-time",
    "big-model-memory",
    "queue-of-200",
    "hook-sqlite",
    "hook-postgresql",
    "idle-cpu",
    "idle-memory",
    "reconcile-first",
    "reconcile-next",
    "verification",
)
"""The figures that a whole run has, as the table shows them; others come after these, by name."""

_SHOWN = (
    "python", "mlflow", "torch", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "mnn", "ncnn", "pnnx",
    "litert-torch", "coremltools", "executorch", "numpy",
)  # fmt: skip


def document(figures: Sequence[Figure]) -> Iterator[str]:
    """Write what stands between the marks, line by line."""
    known = {figure.name: figure for figure in figures}
    places = [*(name for name in ORDER if name in known), *sorted(known.keys() - set(ORDER))]
    missed = [figure for figure in figures if not figure.met]
    yield "| what | measured | at most | | beside | how |"
    yield "|---|---|---|---|---|---|"
    for figure in (known[name] for name in places):
        value, limit = number(figure.measured, figure.unit), number(figure.limit, figure.unit)
        verdict = "met" if figure.met else "**missed**"
        sides = ": ".join(filter(None, (figure.baseline, figure.scale)))
        yield f"| {figure.what} | {value} | {limit} | {verdict} | {sides} | {figure.how} |"
    yield ""
    lacking = [name for name in ORDER if name not in known]
    if lacking:
        yield f"Not measured in this run: {', '.join(lacking)}."
        yield ""
    yield f"{len(figures) - len(missed)} of {len(figures)} met. " + " ".join(_measured_on(figures))
    for figure in (known[name] for name in places):
        if figure.where:
            yield ""
            yield f"### Where it goes: {figure.what}"
            yield ""
            yield from figure.where


def _measured_on(figures: Sequence[Figure]) -> Iterator[str]:
    for machine in dict.fromkeys(figure.machine for figure in figures):
        dates = sorted({figure.date for figure in figures if figure.machine == machine})
        yield f"Measured on {' to '.join(dict.fromkeys((dates[0], dates[-1])))} on {machine}."
    versions = tool_versions()
    yield "With " + ", ".join(f"{name} {versions[name]}" for name in _SHOWN if name in versions) + "."


def with_figures(page: str, lines: Sequence[str]) -> str:
    """Put lines between the page's marks.

    Raises:
        ValueError: The page does not have both marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The page has no {BEGIN} and {END}.")
    return "\n".join([f"{before}{BEGIN}", "", *lines, "", f"{END}{after}"])


def main() -> int:
    """Write the page."""
    path, figures = Path(sys.argv[1]), recorded()
    if not figures:
        print("No figure is kept in build/benchmarks.")
        return 1
    path.write_text(with_figures(path.read_text(encoding="utf-8"), list(document(figures))), encoding="utf-8")
    for figure in figures:
        print(figure.said())
    return 0 if all(figure.met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
