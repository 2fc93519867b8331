"""Names of inputs and outputs, and what TensorFlow's signatures make of them."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable


def identifiers(names: Iterable[str]) -> tuple[str, ...]:
    """Turn input names into distinct keyword names that a TensorFlow signature accepts.

    A name that is a plain identifier stays as it is; anything else has its other characters replaced
    by underscores. The result depends on the names and their order alone, so a reader that knows the
    interface can compute it again.
    """
    made: list[str] = []
    for name in names:
        candidate = re.sub(r"[^0-9A-Za-z_]", "_", name) or "input"
        if not candidate[0].isalpha():
            candidate = f"arg_{candidate}"
        if keyword.iskeyword(candidate) or candidate == "self":
            candidate += "_"
        unique, count = candidate, 1
        while unique in made:
            unique, count = f"{candidate}_{count}", count + 1
        made.append(unique)
    return tuple(made)


def unique_names(names: Iterable[str]) -> tuple[str, ...]:
    """Number repeated names (`dense`, `dense_1`), so that every output can be told by its name."""
    made: list[str] = []
    for name in names:
        unique, count = name, 1
        while unique in made:
            unique, count = f"{name}_{count}", count + 1
        made.append(unique)
    return tuple(made)


def match_keys(keys: tuple[str, ...], names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Pair the names of an interface with the keys of one side of a signature.

    The keys are the names themselves, or what `identifiers` makes of them, or numbered
    (`output_0`); keys that match in none of these ways stand for themselves, in their own order.

    Args:
        keys: What the file calls its inputs, or its outputs.
        names: What the interface calls them, in order; empty where it is unknown.

    Returns:
        Pairs of name and key.
    """
    if set(names) == set(keys):
        return [(name, name) for name in names]
    if names and all(names):
        numbered = [tuple(f"{prefix}_{i}" for i in range(len(names))) for prefix in ("output", "args")]
        for candidate in (identifiers(names), *numbered):
            if set(candidate) == set(keys):
                return list(zip(names, candidate, strict=True))
        if len(names) == len(keys) == 1:
            return [(names[0], keys[0])]
    return [(key, key) for key in keys]
