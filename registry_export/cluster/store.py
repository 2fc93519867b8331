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
        self.post = self._fresh()
        threading.Thread(target=self._sweep, name="registry-export-sweep", daemon=True).start()

    def clear(self) -> None:
        """Remove the folder of the export that is over; the next one has another."""
        post = self.post
        if post.used:
            self.post = self._fresh()
            self._remove(post.blobs.uri.rpartition("/")[2])

    def _fresh(self) -> Post:
        name = f"{datetime.now(UTC):%Y-%m-%d}-{uuid.uuid4().hex[:12]}"
        return Post(Blobs(f"{self._blobs.uri}/{name}", self._tracking_uri))

    def _sweep(self) -> None:
        """Remove what workers that were killed have left."""
        before = f"{datetime.now(UTC) - _OLD:%Y-%m-%d}"
        try:
            folders = self._blobs.folders()
        except RegistryError as error:
            _log.debug("the store could not be looked through: %s", error)
            return
        for name in folders:
            found = _FOLDER.fullmatch(name)
            if found is not None and found[1] < before:
                self._remove(name)

    def _remove(self, name: str) -> None:
        try:
            self._blobs.delete(name)
        except RegistryError as error:
            _log.info("%s/%s is left: %s", self._blobs.uri, name, error)
