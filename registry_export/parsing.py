"""Parsing what somebody else wrote: within bounds, and Python's own parser one thread at a time.

Until Python 3.13 all threads share the counter by which it notices a recursion that is too deep. Where one thread
begins while another is half way (a garbage collection that runs Python code lets it), the first ends with
`SystemError: AST constructor recursion depth mismatch`. `ast.parse`, `ast.literal_eval` and, for the header of every
`.npy` file, `numpy.load` use it.
"""

from __future__ import annotations

import json
import threading
import tokenize
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml

PARSER = threading.RLock()
"""To be held around each of these."""

NO_ARRAY = (
    ValueError, TypeError, LookupError, OverflowError, EOFError, SyntaxError, MemoryError, RecursionError, RuntimeError,
    tokenize.TokenError, zlib.error,
)  # fmt: skip
"""What `numpy.load` raises on a file that is no array or archive of arrays: its header goes through Python's parser."""

MOST_BYTES = 64 * 1024**2
"""Of a text file that comes from somewhere else: a larger one is no description of anything."""

MOST_CODE_BYTES = 4 * 1024**2
"""Of one file of Python code: what the parser makes of it takes a hundred times as much."""

_MOST_NODES = 1_000_000
_LONGEST_NUMBER = 1000
"""Characters: YAML has numbers to the base of sixty, and Python's bound for digits does not hold for those."""
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_bounded(path: Path, most: int = MOST_BYTES) -> bytes:
    """Read a file that somebody else wrote.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        OSError: It cannot be read.
        ValueError: It is larger.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path.name} is larger than {most / 1e6:.0f} MB")
    return content


def json_of(content: bytes | str) -> Any:
    """Decode JSON as Python writes it.

    Raises:
        ValueError: It is none, or lists lie in lists without end.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def yaml_of(text: str) -> Any:
    """Decode a YAML document of plain values; what its aliases stand for is counted before it is built.

    Raises:
        ValueError: It is none, or holds something else, or a few lines of it stand for millions of values, or a
            number is so long that reading it would take minutes.
    """
    import yaml  # not in the environments that some toolchains have to themselves, which JSON is read in

    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded(node, {}) > _MOST_NODES:
            raise ValueError(f"its aliases stand for more than {_MOST_NODES} values")
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, LookupError, AttributeError, TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values that a node stands for, each alias as often as it is used; one inside of itself never ends.

    Raises:
        ValueError: A number is too long.
    """
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = _MOST_NODES + 1  # until it is known: whoever meets it now is inside of it
    total = 1
    if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
        raise ValueError(f"a number is longer than {_LONGEST_NUMBER} characters")
    if not isinstance(node.value, str):
        for part in node.value:  # of a mapping pairs, of a list values
            total += sum(_expanded(one, known) for one in (part if isinstance(part, tuple) else (part,)))
    known[id(node)] = total
    return total
