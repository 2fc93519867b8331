"""A small share of `make fuzz` in every run of the tests, and every input that once failed."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import run
from tests.fuzz.mutate import Mutator
from tests.fuzz.parsers import PARSERS, Parser

ROOT = Path(__file__).parents[2]
_SHARE = 300
_REGRESSIONS = sorted(path for path in (Path(__file__).parent / "regressions").glob("*/*") if path.is_file())


@pytest.fixture
def _alarm():
    before = signal.signal(signal.SIGVTALRM, run._too_slow)
    yield
    signal.signal(signal.SIGVTALRM, before)


def test_hundreds_of_spoiled_inputs_for_every_parser_bring_out_our_own_errors_alone(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz.run", "--inputs", str(_SHARE), "--fresh"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counted = re.findall(rf"^(\w+) +{_SHARE} inputs +0 findings", done.stdout, re.MULTILINE)
    assert counted == [parser.name for parser in PARSERS]


@pytest.mark.parametrize("path", _REGRESSIONS, ids=lambda path: f"{path.parent.name}-{path.name}")
@pytest.mark.usefixtures("_alarm")
def test_an_input_that_once_failed_is_taken_or_refused(path, tmp_path):
    parser = next(parser for parser in PARSERS if parser.name == path.parent.name)
    parser.prepare(tmp_path)
    assert not run.feed(parser, path.read_bytes())


@pytest.mark.usefixtures("_alarm")
def test_a_parser_that_fails_hangs_or_says_nothing_is_found():
    def fails(data):
        if b"7" in data:
            raise KeyError("seven")

    def hangs(data):
        while True:
            pass

    def silent(data):
        raise ValueError("")

    for parse, said in ((fails, "KeyError"), (hangs, "TooSlow"), (silent, "says nothing")):
        parser = Parser("planted", parse, (ValueError,), lambda folder: [b"1234567"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run, "_SECONDS", 0.2)
            assert said in run.feed(parser, b"1234567")


def test_one_seed_makes_the_same_inputs_and_another_makes_others():
    def made(seed):
        mutator = Mutator([b'{"a": [1, 2.5]}'], random.Random(seed))
        return [mutator.make() for _ in range(200)]

    assert made("1") == made("1")
    assert made("1") != made("2")
    assert len(set(made("1"))) > 150
