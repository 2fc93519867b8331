"""What a worker says and does when a signal arrives."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from registry_export.worker.stopping import stopped_by_signals


class Told:
    """A worker that a signal may stop."""

    def __init__(self, is_busy):
        self.is_busy = is_busy
        self.stop = threading.Event()

    def stop_at_once(self):
        raise AssertionError("one signal cut the running export off")

    def abandon(self):
        raise AssertionError("one signal gave the running job back")


@pytest.mark.parametrize(
    ("is_busy", "said"),
    [
        (True, "SIGTERM: stopping after the running export, within 60 s; again to stop at once."),
        (False, "SIGTERM: stopping."),
    ],
)
def test_a_signal_tells_of_a_running_export_only_where_there_is_one(is_busy, said, caplog):
    worker = Told(is_busy)
    with caplog.at_level("INFO", "registry_export"), stopped_by_signals(worker, 60):
        os.kill(os.getpid(), signal.SIGTERM)
        assert worker.stop.wait(10)
    assert said in caplog.messages
