"""Promotions of hundreds of versions, over a server that may be down at any moment; each is made exactly once."""

from __future__ import annotations

import contextlib
import random
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from registry_export.entities import ModelVersionRef

_MOVES, _DELETES, _STAGES = 0.1, 0.04, 0.3
_DELAY_S = 3.0


@dataclass
class Promotion:
    """One promotion.

    Attributes:
        ref: Of what.
        trigger: As the hook names it.
        deleted: Whether the version was deleted in the middle.
    """

    ref: ModelVersionRef
    trigger: str
    deleted: bool = False


@dataclass
class Promoter:
    """Promotes versions, one after another, as long as few are under way; a thread of its own.

    Args:
        client: Speaks to the server.
        waiting: What to promote, by model.
        seed: Of its choices.
        may_go_on: Whether another may begin.

    Attributes:
        made: What was promoted.
        moved: How many aliases were moved on in the middle.
        deleted: How many versions were deleted in the middle.
    """

    client: MlflowClient
    waiting: Sequence[Sequence[ModelVersionRef]]
    seed: int
    may_go_on: Callable[[], bool]
    made: list[Promotion] = field(default_factory=list)
    moved: int = 0
    deleted: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._queue = deque(self.waiting)
        self._thread = threading.Thread(target=self._run, name="promoter")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """Promote no further model, and wait for the end of what was begun."""
        self._ended.set()
        self._thread.join()

    @property
    def exhausted(self) -> bool:
        """Whether all is promoted."""
        return not self._queue

    def _run(self) -> None:
        while self._queue and not self._ended.is_set():
            if not self.may_go_on():
                time.sleep(0.1)
                continue
            self._promote(self._queue.popleft())

    def _promote(self, refs: Sequence[ModelVersionRef]) -> None:
        by_stage, deletes = self._random.random() < _STAGES, self._random.random() < _DELETES
        delay = self._random.uniform(0, _DELAY_S)
        if len(refs) > 1:
            self._alias(refs[0])
            time.sleep(delay)
            self._alias(refs[1])
            self.moved += 1
        elif by_stage:
            self._stage(refs[0])
        else:
            self._alias(refs[0])
            if deletes:
                time.sleep(delay)
                self._delete(refs[0])

    def _alias(self, ref: ModelVersionRef) -> None:
        self._until(
            lambda: self.client.set_registered_model_alias(ref.name, "champion", ref.version),
            lambda: self.client.get_registered_model(ref.name).aliases.get("champion") == ref.version,
        )
        self.made.append(Promotion(ref, "alias:champion"))

    def _stage(self, ref: ModelVersionRef) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self._until(
                lambda: self.client.transition_model_version_stage(ref.name, ref.version, "Staging"),
                lambda: self.client.get_model_version(ref.name, ref.version).current_stage == "Staging",
            )
        self.made.append(Promotion(ref, "stage:Staging"))

    def _delete(self, ref: ModelVersionRef) -> None:
        self.made[-1].deleted = True
        self.deleted += 1

        def is_gone() -> bool:
            try:
                self.client.get_model_version(ref.name, ref.version)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return True
                raise
            return False

        self._until(lambda: self.client.delete_model_version(ref.name, ref.version), is_gone)

    def _until(self, act: Callable[[], object], is_done: Callable[[], bool]) -> None:
        """Do something once: where the answer was lost, look before it is done again."""
        with contextlib.suppress(Exception):
            act()
            return
        while True:
            with contextlib.suppress(Exception):
                if is_done():
                    return
                act()
                return
            time.sleep(0.2)
