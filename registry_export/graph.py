"""From a source's kind and the requested targets to a plan: steps with shared intermediates.

Formats are nodes, conversions are edges: a conversion consumes a kind, and a format whose loader
yields that kind can stand in between. A target may have several routes; the cheapest is tried first
and the next one only where it fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from registry_export.config import variant_of
from registry_export.discovery import install_command, missing_requirements
from registry_export.entities import ErrorRecord, OptionValue, RuntimeNeed, Target
from registry_export.errors import MissingPackageError, PlanError, UnsupportedTargetError, to_record
from registry_export.format import DYNAMIC_DIMENSIONS, PRUNING, Conversion, Format, Pruning, Toolchain, pruning_of

_MOST_ROUTES = 4
_LONGEST_ROUTE = 4

_NO_SAMPLES = "it is calibrated on real inputs, and the version has neither samples nor an input example"
_GIVE_SAMPLES = "Give the rule `samples: {path: ...}`, or log the model with `input_example=` (dozens of rows)."


@dataclass(frozen=True)
class Step:
    """One conversion, from the source or from another step's artifact.

    Attributes:
        id: Unique in the plan: the variants on the way, joined by `/`, with the edge's label where it has one.
        format: What it makes.
        options: The options it makes it with.
        conversion: Position of the edge in that format's `conversions`.
        parent: The step whose artifact it reads; empty for the source.
        path: The chain of formats from the source to here.
        pruning: What is done to the source's weights before; None: nothing.
    """

    id: str
    format: str
    options: Mapping[str, OptionValue]
    conversion: int
    parent: str
    path: tuple[str, ...]
    pruning: Pruning | None = None

    @property
    def label(self) -> str:
        """Which of several converters of one kind makes it, as its id says; empty where there is one."""
        return self.id.rpartition("/")[2].partition("(")[2].removesuffix(")")


@dataclass(frozen=True)
class PlannedTarget:
    """A target with its routes, or why there is none.

    Attributes:
        target: What is wanted.
        routes: Ids of their last steps, cheapest first.
        error: Why there is none.
        needs: Which runtimes take what the first route makes; empty where the format does not say.
        warnings: Which of the runtimes that must read it are too old.
    """

    target: Target
    routes: tuple[str, ...] = ()
    error: ErrorRecord | None = None
    needs: tuple[RuntimeNeed, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportPlan:
    """Everything that would be run.

    Attributes:
        source_format: What the checkpoint is.
        source_kind: What its loader yields.
        steps: By name, each after the one it reads from.
        targets: What is to be made.
        targets_from: What asked for these targets: a file of rules, a tag, the command; empty: the caller knows.
    """

    source_format: str
    source_kind: str
    steps: Mapping[str, Step]
    targets: tuple[PlannedTarget, ...]
    targets_from: str = ""

    def way(self, last: str) -> tuple[Step, ...]:
        """Return the steps of a route, from the source on, by the name of its last."""
        step = self.steps[last]
        return (*(self.way(step.parent) if step.parent else ()), step)


@dataclass(frozen=True)
class _Edge:
    format: Format
    index: int
    options: Mapping[str, OptionValue]

    @property
    def conversion(self) -> Conversion:
        return self.format.conversions[self.index]


@dataclass(frozen=True)
class _Map:
    """The formats, and whether there are samples to calibrate with."""

    formats: Mapping[str, Format]
    samples: bool

    def refusal(self, conversion: Conversion, options: Mapping[str, OptionValue]) -> str:
        """Say why an edge cannot serve these options here; empty when it can."""
        if not self.samples and conversion.calibrates(options):
            return _NO_SAMPLES
        return conversion.accepts(options)


def plan_export(
    source: Format, targets: Sequence[Target], formats: Mapping[str, Format], *, samples: bool = True
) -> ExportPlan:
    """Plan the routes of all targets; a target without one carries the reason and takes no other down.

    Args:
        source: The format that recognised the checkpoint.
        targets: What is asked for.
        formats: Every installed format, by name.
        samples: Whether there are real samples, which quantisation calibrates with.
    """
    steps: dict[str, Step] = {}
    planned = []
    for target in targets:
        pruning = pruning_of(target.options)
        try:
            _check_prunable(source, target, pruning)
            routes = _routes(source, target, _Map(formats, samples))
        except PlanError as error:
            planned.append(PlannedTarget(target, error=to_record(error)))
            continue
        planned.append(PlannedTarget(target, tuple(_add(steps, source, route, pruning) for route in routes)))
    return ExportPlan(source.name, source.kind, steps, tuple(planned))


def needed_toolchains(
    plan: ExportPlan, planned: Sequence[PlannedTarget], formats: Mapping[str, Format]
) -> tuple[Toolchain, ...]:
    """Return what an export needs if each first route works, in the order of need: source, conversions, runners."""
    first = [target.routes[0] for target in planned if target.routes]
    steps = [step for last in first for step in plan.way(last)]
    needed = [
        formats[plan.source_format].toolchain,
        *(formats[step.format].conversions[step.conversion].toolchain for step in steps),
        *(formats[target.target.format].toolchain for target in planned if target.routes),
    ]
    return each_once(needed)


def each_once(toolchains: Sequence[Toolchain]) -> tuple[Toolchain, ...]:
    """Return toolchains, which cannot be hashed, without those that came before."""
    return tuple(toolchain for i, toolchain in enumerate(toolchains) if toolchain not in toolchains[:i])


def _check_prunable(source: Format, target: Target, pruning: Pruning | None) -> None:
    if pruning is not None and PRUNING.name not in getattr(source, "setup", ()):
        article = "an" if source.name[0] in "aeio" else "a"
        raise UnsupportedTargetError(
            f"{target.variant} cannot be made from {article} {source.name} checkpoint: only PyTorch's are pruned here.",
            remedy="Prune the model before it is logged: it is exported as what it is.",
        )


def _routes(source: Format, target: Target, known: _Map) -> list[tuple[_Edge, ...]]:
    format_ = known.formats[target.format]
    found = list(_ways(source, format_, _own(target.options), known))
    absent = set(
        missing_requirements(tuple({name for route in found for edge in route for name in _requirements(edge)}))
    )
    usable = [route for route in found if not any(absent.intersection(_requirements(edge)) for edge in route)]
    if not usable:
        raise _no_route(source, target, found, known)
    usable.sort(key=lambda route: (sum(edge.conversion.cost for edge in route), len(route)))
    return usable[:_MOST_ROUTES]


def _own(options: Mapping[str, OptionValue]) -> Mapping[str, OptionValue]:
    """Return what is asked of the format itself."""
    return {name: value for name, value in options.items() if name != PRUNING.name}


def _ways(
    source: Format, format_: Format, options: Mapping[str, OptionValue], known: _Map
) -> Iterator[tuple[_Edge, ...]]:
    """Yield every route from a source into a format."""
    for route in _walk(source.kind, format_, options, known, ()):
        if format_.name != source.name or len(route) == 1:  # a round trip through other formats only loses
            yield route


def _walk(
    kind: str,
    format_: Format,
    options: Mapping[str, OptionValue],
    known: _Map,
    later: tuple[_Edge, ...],
) -> Iterator[tuple[_Edge, ...]]:
    """Yield every route from a kind into a format, walking backwards from the format."""
    if len(later) == _LONGEST_ROUTE:
        return
    for index, conversion in enumerate(format_.conversions):
        if known.refusal(conversion, options):
            continue
        route = (_Edge(format_, index, options), *later)
        asked = conversion.asks(options)
        if conversion.kind == kind and not asked:  # a source cannot be asked for another precision or opset
            yield route
            continue
        visited = {edge.format.name for edge in route}
        for between in known.formats.values():
            if between.kind == conversion.kind and between.name not in visited and _declares(between, asked):
                yield from _walk(kind, between, _between_options(between, asked, options), known, route)


def _declares(format_: Format, asked: Mapping[str, OptionValue]) -> bool:
    return set(asked) <= {option.name for option in format_.options}


def _between_options(
    between: Format, asked: Mapping[str, OptionValue], options: Mapping[str, OptionValue]
) -> Mapping[str, OptionValue]:
    """Options of an intermediate: its defaults, what the edge asks for, and the target's dynamic dimensions."""
    defaults: dict[str, OptionValue] = {option.name: option.default for option in between.options}
    name = DYNAMIC_DIMENSIONS.name
    if name in defaults and options.get(name) is not None:
        defaults[name] = options[name]
    return defaults | dict(asked)


def _requirements(edge: _Edge) -> tuple[str, ...]:
    return (*edge.format.requirements, *edge.conversion.requirements)


def _missing(route: Sequence[_Edge]) -> tuple[str, ...]:
    return tuple(name for edge in route for name in missing_requirements(_requirements(edge)))


def _no_route(source: Format, target: Target, found: Sequence[tuple[_Edge, ...]], known: _Map) -> PlanError:
    format_ = known.formats[target.format]
    if found:
        route = min(found, key=lambda r: len(_missing(r)))
        missing = ", ".join(dict.fromkeys(_missing(route)))
        lacking = next(edge.format for edge in route if missing_requirements(_requirements(edge)))
        command = install_command(lacking)
        return MissingPackageError(
            f"{target.variant} needs packages that are not installed: {missing}.",
            remedy=f"Run `{command}`." if command else "",
        )
    calibrated = _Map(known.formats, samples=True)
    if not known.samples and any(True for _ in _ways(source, format_, _own(target.options), calibrated)):
        return UnsupportedTargetError(f"{target.variant} cannot be made: {_NO_SAMPLES}.", remedy=_GIVE_SAMPLES)
    reason, article = _refusal(source, target, format_), "an" if source.name[0] in "aeio" else "a"
    reachable = sources_of(format_, known.formats)
    return UnsupportedTargetError(
        f"{target.variant} cannot be made from {article} {source.name} checkpoint{': ' + reason if reason else ''}.",
        remedy=f"It can be made from: {', '.join(reachable) or 'nothing that is installed'}.",
    )


def _refusal(source: Format, target: Target, format_: Format) -> str:
    """Say why the edge from the source, or else every edge into the format, refuses the options."""
    refusals = [(edge.kind == source.kind, edge.accepts(target.options)) for edge in format_.conversions]
    refused = [refusal for direct, refusal in refusals if refusal and (direct or all(r for _, r in refusals))]
    return refused[0] if refused else ""


def _reaches(source: Format, format_: Format, formats: Mapping[str, Format]) -> bool:
    defaults: dict[str, OptionValue] = {option.name: option.default for option in format_.options}
    return any(True for _ in _ways(source, format_, defaults, _Map(formats, samples=True)))


def sources_of(format_: Format, formats: Mapping[str, Format]) -> tuple[str, ...]:
    """Return the names of the formats from which a format can be made, for `registry-export formats`."""
    return tuple(sorted(name for name, other in formats.items() if other.kind and _reaches(other, format_, formats)))


def _add(steps: dict[str, Step], source: Format, route: Sequence[_Edge], pruning: Pruning | None) -> str:
    """Add a route's steps to the plan, sharing those that are there, and return the last one's id."""
    parent = ""
    path: tuple[str, ...] = (source.name,)
    for edge in route:
        label = f"({edge.conversion.label})" if edge.conversion.label else ""
        name = variant_of(edge.format, edge.options) + label
        path = (*path, edge.format.name)
        identity = "/".join(filter(None, (parent or str(pruning or ""), name)))
        steps.setdefault(identity, Step(identity, edge.format.name, edge.options, edge.index, parent, path, pruning))
        parent = identity
    return parent
