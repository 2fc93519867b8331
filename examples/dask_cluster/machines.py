"""Two machines for Dask workers: network namespaces with a bridge to this one, where there are the rights for that."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BRIDGE = "rexport0"
HOST = "10.77.0.1"
NAMES = ("a", "b")


@dataclass(frozen=True)
class Machine:
    """Where one Dask worker runs.

    Attributes:
        name: `a` or `b`.
        address: Its own.
        prefix: What a command on it begins with.
    """

    name: str
    address: str
    prefix: tuple[str, ...] = ()


@contextlib.contextmanager
def machines() -> Iterator[tuple[str, list[Machine]]]:
    """Yield the address at which this machine is reached from both, and the two."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        print("No rights to make network namespaces: both Dask workers run in this one.")
        yield "127.0.0.1", [Machine(name, "127.0.0.1") for name in NAMES]
        return
    try:
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", f"{HOST}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        yield HOST, [namespace(name, f"10.77.0.{number}") for number, name in enumerate(NAMES, 11)]
    finally:
        for name in NAMES:
            ip("netns", "del", f"rexport-{name}", check=False)
        ip("link", "del", BRIDGE, check=False)


def namespace(name: str, address: str) -> Machine:
    """Make a network namespace that reaches this machine's bridge and nothing else."""
    ours, theirs, inside = f"rexport-{name}0", f"rexport-{name}1", f"rexport-{name}"
    ip("netns", "add", inside)
    ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", inside)
    ip("link", "set", ours, "master", BRIDGE, "up")
    ip("-n", inside, "addr", "add", f"{address}/24", "dev", theirs)
    ip("-n", inside, "link", "set", theirs, "up")
    ip("-n", inside, "link", "set", "lo", "up")
    return Machine(name, address, ("ip", "netns", "exec", inside))


def ip(*arguments: str, check: bool = True) -> None:
    command: Sequence[str] = ("ip", *arguments)
    subprocess.run(command, check=check, stderr=None if check else subprocess.DEVNULL)
