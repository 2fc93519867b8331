"""The ways that led to a target, or would have: what the page draws from a path and its attempts."""

from __future__ import annotations

from dataclasses import dataclass

from registry_export.entities import Attempt, Status, TargetResult

ARROW = " → "


@dataclass(frozen=True)
class Stop:
    """A format on a route; `state` is `made`, `failed`, `never` (what comes after that), or the target's verdict."""

    name: str
    state: str


@dataclass(frozen=True)
class Route:
    """One chain of formats, from the source to the target, and why it was given up (empty: it was not)."""

    stops: tuple[Stop, ...]
    error: str = ""


def taken_route(result: TargetResult) -> Route | None:
    """Return the route that a target's files came on, or the one that ended in its error; None without any."""
    if not result.path:
        return None
    at = next((attempt.at for attempt in _routes_tried(result) if _names(attempt) == result.path), "")
    return Route(_stops(result, result.path, at, str(result.status)))


def routes_given_up(result: TargetResult) -> tuple[Route, ...]:
    """Return the other routes that were tried, in order."""
    given_up = [attempt for attempt in _routes_tried(result) if attempt.error and not _is_taken(result, attempt)]
    return tuple(
        Route(_stops(result, _names(attempt), attempt.at, str(Status.MISMATCH)), attempt.error) for attempt in given_up
    )


def tries_within(result: TargetResult) -> tuple[Attempt, ...]:
    """Return what the converters on the route tried themselves, where something of it did not work."""
    routes = _routes_tried(result)
    tries = tuple(attempt for attempt in result.attempts if attempt not in routes)
    return tries if any(attempt.error for attempt in tries) else ()


def _routes_tried(result: TargetResult) -> tuple[Attempt, ...]:
    """Tell routes from a converter's tries: they come first, lead from the source, and end in the target's format."""
    return tuple(
        attempt
        for attempt in result.attempts
        if len(names := _names(attempt)) > 1 and names[-1] == result.format and names[0] == (result.path or names)[0]
    )


def _is_taken(result: TargetResult, attempt: Attempt) -> bool:
    """The reason of a target that is not verified is told of the target itself."""
    return _names(attempt) == result.path and result.status is not Status.VERIFIED


def _names(attempt: Attempt) -> tuple[str, ...]:
    return tuple(attempt.way.split(ARROW))


def _stops(result: TargetResult, path: tuple[str, ...], at: str, verdict: str) -> tuple[Stop, ...]:
    names = (*path[:-1], result.variant)
    if at not in path[1:]:
        return (*(Stop(name, "made") for name in names[:-1]), Stop(names[-1], verdict))
    place = path.index(at, 1)
    states = ["made"] * place + ["failed"] + ["never"] * (len(path) - place - 1)
    return tuple(Stop(name, state) for name, state in zip(names, states, strict=True))
