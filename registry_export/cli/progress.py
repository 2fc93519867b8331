"""A progress line per step."""

from __future__ import annotations

import os
import sys
import threading

import click

from registry_export.reporter import Reporter


class TerminalReporter(Reporter):
    """Prints a line when a step ends; on a terminal the last line says what is being done meanwhile.

    Args:
        to_stderr: Keep stdout for the result.
    """

    def __init__(self, *, to_stderr: bool = False) -> None:
        self._err = to_stderr
        self._lock = threading.Lock()
        self._running: list[str] = []
        self._live = (sys.stderr if to_stderr else sys.stdout).isatty() and os.environ.get("TERM") != "dumb"

    def step_started(self, step: str, variant: str) -> None:
        """Called when a step begins."""
        with self._lock:
            self._running.append(f"{step} {variant}".strip())
            self._show_running()

    def step_finished(self, step: str, variant: str, outcome: str, seconds: float) -> None:
        """Called when a step ends, with the word for how."""
        with self._lock:
            name = f"{step} {variant}".strip()
            if name in self._running:
                self._running.remove(name)
            self._line(f"  {step:<12} {variant:<24} {outcome:<12} {seconds:6.1f} s".rstrip())
            self._show_running()

    def note(self, text: str) -> None:
        """Called with a sentence that the reader should see."""
        with self._lock:
            self._line(f"  {text}")
            self._show_running()

    def _line(self, text: str) -> None:
        clear = "\r\x1b[2K" if self._live else ""
        click.echo(f"{clear}{text}", err=self._err, color=self._live)  # not stripped with the colours

    def _show_running(self) -> None:
        if self._live:
            text = f"  ... {', '.join(self._running)}"[:100] if self._running else ""
            click.echo(f"\r\x1b[2K{text}", nl=False, err=self._err, color=True)
