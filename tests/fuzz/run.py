"""`python -m tests.fuzz.run`: so many inputs for every parser, within memory and time; goes on where it stopped."""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.mutate import Mutator
from tests.fuzz.parsers import PARSERS, Parser

_CHUNK = 5_000
_SECONDS = 5.0
"""Processor time that one input may take."""
_MEMORY = 2 * 1024**3
"""What the process may take beyond what it has when a parser's turn begins, in bytes."""
_MOST_FAILURES = 5
FOUND = Path("build/fuzz")


class TooSlow(BaseException):
    """An input took longer than it may; no parser catches it."""


def main() -> int:
    """Run; the exit status is 1 where something was found."""
    arguments = _arguments()
    signal.signal(signal.SIGVTALRM, _too_slow)
    FOUND.mkdir(parents=True, exist_ok=True)
    chosen = [parser for parser in PARSERS if not arguments.only or parser.name in arguments.only]
    counts = {parser.name: _run(parser, arguments.inputs, arguments.seed, arguments.fresh) for parser in chosen}
    failed = [name for name, failures in counts.items() if failures]
    print(f"seed {arguments.seed}; {len(chosen)} parsers, {len(failed)} with findings {failed or ''}".rstrip())
    return int(bool(failed))


def _run(parser: Parser, inputs: int, seed: int, fresh: bool) -> int:
    """Feed one parser; returns how many inputs it failed on."""
    state = FOUND / f"{parser.name}.json"
    done, failures, spent = _resumed(state, seed) if not fresh else (0, 0, 0.0)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory) as folder:
        parser.prepare(Path(folder))
        _limit_memory()
        began = time.process_time()
        refused = 0
        while done < inputs and failures < _MOST_FAILURES:
            chunk = min(_CHUNK, inputs - done)
            mutator = Mutator(
                parser.seeds, random.Random(f"{seed}:{parser.name}:{done}"), parser.words, parser.most_bytes
            )
            for position in range(chunk):
                said = feed(parser, data := mutator.make())
                refused += said == ""
                if said:
                    failures += 1
                    _tell(parser, data, f"seed {seed}, input {done + position}: {said}")
            done += chunk
            seconds = spent + time.process_time() - began
            state.write_text(json.dumps({"seed": seed, "done": done, "failures": failures, "seconds": seconds}))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    spent += time.process_time() - began
    print(
        f"{parser.name:12} {done:8} inputs {failures:3} findings {refused / max(1, done):5.0%} refused "
        f"{spent:6.0f} s, peak {peak:.0f} MB",
        flush=True,
    )
    return failures


def feed(parser: Parser, data: bytes) -> str | None:
    """Give a parser one input.

    Returns:
        None where it was taken, empty where it was refused as it should be, else what came out instead.
    """
    signal.setitimer(signal.ITIMER_VIRTUAL, _SECONDS)
    try:
        parser.parse(data)
    except parser.allowed as error:
        return "" if str(error).strip() else f"{type(error).__name__} that says nothing"
    except (Exception, TooSlow) as error:  # noqa: BLE001 - that is what is looked for
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return None


def _tell(parser: Parser, data: bytes, said: str) -> None:
    path = FOUND / parser.name / hashlib.sha256(data).hexdigest()[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    print(f"{parser.name}: {said}\n  kept in {path}: {data[:300]!r}", flush=True)


def _resumed(state: Path, seed: int) -> tuple[int, int, float]:
    if state.is_file() and (told := json.loads(state.read_text()))["seed"] == seed:
        return told["done"], told["failures"], told["seconds"]
    return 0, 0, 0.0


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY, hard))


def _too_slow(number: int, frame: object) -> None:
    raise TooSlow(f"more than {_SECONDS} s of processor time")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="for each parser")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", nargs="*", help="names of parsers")
    parser.add_argument("--fresh", action="store_true", help="do not go on where an earlier run with this seed stopped")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
