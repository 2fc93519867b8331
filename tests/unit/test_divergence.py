"""The place where two runs part, from traces that are written by hand."""

from __future__ import annotations

import numpy as np

from registry_export.divergence import locate
from registry_export.sketches import sketch
from registry_export.tracing import Trace, Traced

ALLOWED = 1e-3
SHAPE = (2, 4, 5, 5)


def values(*names: str, seed: int = 1) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(SHAPE) for name in names}


def trace(steps: list[tuple[str, list[str], np.ndarray]], output: str, every_order: bool = True) -> Trace:
    """Write a trace: each step is a name, what it was made from, and its value."""
    places = {name: i for i, (name, _, _) in enumerate(steps)}
    tensors = [
        Traced(name, f"net.{name}", "", tuple(places[one] for one in after), sketch(value, every_order))
        for name, after, value in steps
    ]
    result = next(value for name, _, value in steps if name == output)
    return Trace(tuple(tensors), {"y": sketch(result, every_order)})


def found(source: Trace, export: Trace):
    place = locate(source, export, ALLOWED)
    return [one.name for one in place.within], place.export.name if place.export else None


def test_the_first_of_a_chain_is_named_whatever_follows():
    v, w = values("a", "b", "c", "d"), values("s", "t", seed=2)
    ours = trace([("a", [], v["a"]), ("b", ["a"], v["b"]), ("c", ["b"], v["c"]), ("d", ["c"], v["d"])], "d")
    theirs = [("A", [], v["a"]), ("B", ["A"], v["b"]), ("C", ["B"], w["s"]), ("D", ["C"], w["t"])]
    assert found(ours, trace(theirs, "D", False)) == (["c"], "C")


def test_what_is_fused_away_is_no_fault():
    v, w = values("conv", "norm", "relu", "head"), values("h", seed=2)
    ours = trace([("conv", [], v["conv"]), ("norm", ["conv"], v["norm"]), ("head", ["norm"], v["head"])], "head")
    theirs = trace([("fused", [], v["norm"]), ("end", ["fused"], w["h"])], "end", False)
    assert found(ours, theirs) == (["head"], "end")


def test_a_fault_in_what_is_computed_in_one_names_all_of_it():
    v = values("x", "conv", "norm", "head")
    near = v["norm"] * 1.05
    ours = [("x", [], v["x"]), ("conv", ["x"], v["conv"]), ("norm", ["conv"], v["norm"]), ("head", ["norm"], v["head"])]
    theirs = [("X", [], v["x"]), ("fused", ["X"], near), ("end", ["fused"], v["head"] * 1.1)]
    assert found(trace(ours, "head"), trace(theirs, "end", False)) == (["conv", "norm"], "fused")


def test_a_branch_that_is_computed_later_and_agrees_does_not_hide_the_fault():
    v, w = values("x", "main", "beside", "sum"), values("f", "g", seed=2)
    ours = [
        ("x", [], v["x"]), ("main", ["x"], v["main"]), ("beside", ["x"], v["beside"]),
        ("sum", ["main", "beside"], v["sum"]),
    ]  # fmt: skip
    theirs = [
        ("X", [], v["x"]), ("MAIN", ["X"], w["f"]), ("BESIDE", ["X"], v["beside"]), ("SUM", ["MAIN", "BESIDE"], w["g"]),
    ]  # fmt: skip
    assert found(trace(ours, "sum"), trace(theirs, "SUM", False)) == (["main"], "MAIN")


def test_what_no_output_is_made_from_is_passed_over():
    v, w = values("x", "unused", "y"), values("f", seed=2)
    ours = [("x", [], v["x"]), ("unused", ["x"], v["unused"]), ("y", ["x"], v["y"])]
    theirs = [("X", [], v["x"]), ("Y", ["X"], w["f"])]
    assert found(trace(ours, "y"), trace(theirs, "Y", False)) == (["y"], "Y")


def test_another_layout_agrees():
    v = values("a", "b")
    ours = trace([("a", [], v["a"]), ("b", ["a"], v["b"])], "b")
    wrong = v["b"] * 1.2
    theirs = [("A", [], v["a"].transpose(0, 2, 3, 1)), ("B", ["A"], wrong.transpose(0, 2, 3, 1)), ("C", ["B"], wrong)]
    assert found(ours, trace(theirs, "C", False)) == (["b"], "B")


def test_rounding_that_grows_is_told_from_a_fault():
    generator = np.random.default_rng(2)
    chain = [f"s{i}" for i in range(12)]
    v = values(*chain)
    ours = trace([(name, chain[i - 1 : i] if i else [], v[name]) for i, name in enumerate(chain)], chain[-1])
    steps = []
    for i, name in enumerate(chain):
        noise = 1e-6 * (i + 1) if i < 7 else 4e-3
        wrong = v[name] + generator.standard_normal(SHAPE) * noise
        steps.append((name, chain[i - 1 : i] if i else [], wrong))
    assert found(ours, trace(steps, chain[-1], False)) == (["s7"], "s7")


def test_all_that_agrees_has_no_place():
    v = values("a", "b")
    ours = trace([("a", [], v["a"]), ("b", ["a"], v["b"])], "b")
    theirs = trace([("A", [], v["a"]), ("B", ["A"], v["b"])], "B", False)
    assert found(ours, theirs) == ([], None)


def test_where_nothing_agrees_the_first_is_named_and_nothing_before_it():
    v, w = values("a", "b"), values("r", "s", seed=2)
    ours = trace([("a", [], v["a"]), ("b", ["a"], v["b"])], "b")
    theirs = trace([("R", [], w["r"]), ("S", ["R"], w["s"])], "S", False)
    place = locate(ours, theirs, ALLOWED)
    assert place.source is not None
    assert place.source.name == "a"
    assert place.before is None
    assert place.agreeing == 0
