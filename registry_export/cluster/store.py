"""The store between a worker and the cluster: a folder for each export, removed when it is over."""

from __future__ import annotations

import logging
import re
import threading
import uuid
from datetime import UTC, datetime, timedelta

from registry_export.cluster.parcels import Post
from registry_export.errors import RegistryError
from registry_export.registry import Blobs

_FOLDER = re.compile(r"(\d{4}-\d{2}-\d{2})-[0-9a-f]{12}")
_OLD = timedelta(days=2)
"""After which a folder belongs to a worker that was killed."""

_log = logging.getLogger(__name__)


class Store:
    """Folders for one export after another.

    Args:
        uri: Artifact URI of the folder that they are in.
        tracking_uri: The tracking server, which serves what begins with `mlflow-artifacts:`.

    Attributes:
        uri: That folder's.
        post: Brings files to the folder of the present export, and fetches them.
    """

    def __init__(self, uri: str, tracking_uri: str) -> None:
        self._blobs, self._tracking_uri = Blobs(uri, tracking_uri), tracking_uri
        self.uri = self._blobs.uri
        self._sweeping = threading.Lock()
        self.post = self._fresh()
        self.sweep()

    def clear(self) -> None:
        """Remove the folder of the export that is over; the next one has another, of its own day."""
        name = self.post.blobs.uri.rpartition("/")[2]
        if self.post.used:
            self.post = self._fresh()
            self._remove(name)
        elif not name.startswith(_day(datetime.now(UTC))):  # others would take it for what a killed worker has left
            self.post = self._fresh()

    def sweep(self) -> None:
        """Begin to remove what workers that were killed have left, unless that is under way."""
        if self._sweeping.acquire(blocking=False):
            threading.Thread(target=self._sweep, name="registry-export-sweep", daemon=True).start()

    def _fresh(self) -> Post:
        name = f"{_day(datetime.now(UTC))}-{uuid.uuid4().hex[:12]}"
        return Post(Blobs(f"{self._blobs.uri}/{name}", self._tracking_uri))

    def _sweep(self) -> None:
        before = _day(datetime.now(UTC) - _OLD)
        try:
            for name in self._blobs.folders():
                found = _FOLDER.fullmatch(name)
                if found is not None and found[1] < before:
                    self._remove(name)
        except RegistryError as error:
            _log.debug("the store could not be looked through: %s", error)
        finally:
            self._sweeping.release()

    def _remove(self, name: str) -> None:
        try:
            self._blobs.delete(name)
        except RegistryError as error:
            _log.info("%s/%s is left: %s", self._blobs.uri, name, error)


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
