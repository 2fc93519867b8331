"""What the registry lists: versions that changed, aliases, tags; many at a time."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry_export.entities import ModelVersionRef
from registry_export.errors import ModelVersionNotFoundError, RegistryError
from registry_export.registry.connection import Connection
from registry_export.registry.version_info import VersionInfo, info_of

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel
    from mlflow.store.entities import PagedList

_FIRST_PAGE, _PAGE = 100, 1000
_NAMES = 50  # to a query, which travels in a URL
_QUOTED = re.compile(r"['\"`\\%]")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AliasPage:
    """Some registered models' aliases.

    Attributes:
        models: Which were read, with aliases or without.
        aliases: Their aliases, each with the version it points to.
        next_token: Where the next page begins; None: there is none.
    """

    models: frozenset[str]
    aliases: frozenset[tuple[ModelVersionRef, str]]
    next_token: str | None = None


class Listings(Connection):
    """Lists. Hosted and older servers answer some searches with a refusal: then they are asked in plainer words."""

    _sorts = True

    def glance_at_many(self, refs: Collection[ModelVersionRef], tag: str) -> dict[ModelVersionRef, VersionInfo]:
        """Read versions in few calls, without their aliases.

        Args:
            refs: Which.
            tag: A version tag that they are expected to have.

        Returns:
            Those that were found so. Versions without the tag, and all where the server cannot be asked like this,
            are left out: `glance` at them.
        """
        wanted = set(refs)
        names = sorted({ref.name for ref in wanted if not _QUOTED.search(ref.name)})
        found: dict[ModelVersionRef, VersionInfo] = {}
        for start in range(0, len(names), _NAMES):
            listed = ", ".join(f"'{name}'" for name in names[start : start + _NAMES])
            query = f"name IN ({listed}) AND tags.`{tag}` LIKE '%'"
            try:
                with self._calls("list model versions"):
                    page = self._client.search_model_versions(filter_string=query, max_results=_PAGE)
            except RegistryError as error:
                if error.transient:
                    raise
                return found  # older servers know no IN for names
            found |= {info.ref: info for info in map(info_of, page) if info.ref in wanted}
        return found

    def versions_changed_since(self, timestamp_ms: int) -> Iterator[VersionInfo]:
        """Yield versions updated at or after a time; the cost grows with their number.

        MLflow counts stage transitions and descriptions as updates, not aliases and tags. The
        experiment is not looked up. A server that cannot sort by the time of update is asked for the versions of each
        registered model that was updated since.

        Args:
            timestamp_ms: Milliseconds since the epoch, by the server's clock.
        """
        token: str | None = None
        count = _FIRST_PAGE  # is seldom followed by another; where it is, the rest comes in few calls
        while self._sorts:
            try:
                page = self._newest_versions(count, token)
            except RegistryError as error:
                if error.transient or token is not None:
                    raise
                _logger.info("%s Its models are looked through one by one.", error)
                self._sorts = False
                break
            for found in page:
                if int(found.last_updated_timestamp or 0) < timestamp_ms:
                    return
                yield info_of(found)
            token, count = page.token, _PAGE
            if not token:
                return
        for model in self._models():
            if int(model.last_updated_timestamp or timestamp_ms) >= timestamp_ms:
                yield from self._changed_of(str(model.name), timestamp_ms)

    def _newest_versions(self, count: int, token: str | None) -> PagedList[ModelVersion]:
        with self._calls("list model versions"):
            return self._client.search_model_versions(
                max_results=count, order_by=["last_updated_timestamp DESC"], page_token=token
            )

    def _changed_of(self, name: str, timestamp_ms: int) -> Iterator[VersionInfo]:
        if _QUOTED.search(name):
            _logger.warning("The versions of %s cannot be listed: its name cannot be asked for.", name)
            return
        token: str | None = None
        while True:
            with self._calls(f"list the versions of {name}"):
                page = self._client.search_model_versions(f"name='{name}'", max_results=_PAGE, page_token=token)
            for found in page:
                if int(found.last_updated_timestamp or timestamp_ms) >= timestamp_ms:
                    yield info_of(found)
            token = page.token
            if not token:
                return

    def _models(self, query: str | None = None) -> Iterator[RegisteredModel]:
        token: str | None = None
        while True:
            with self._calls("list registered models"):
                page = self._client.search_registered_models(query, max_results=_PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def alias_page(self, token: str | None = None) -> AliasPage:
        """Read the aliases of the next hundred registered models.

        Args:
            token: Where the page before ended; None for the first.
        """
        with self._calls("list registered models"):
            page = self._client.search_registered_models(max_results=_FIRST_PAGE, page_token=token)
        return _alias_page(page, page.token or None)

    def aliases_of(self, names: Collection[str]) -> AliasPage:
        """Read the aliases of some registered models; those that do not exist are left out."""
        found: list[RegisteredModel] = []
        for name in sorted(names):
            with contextlib.suppress(ModelVersionNotFoundError), self._calls(f"read {name}"):
                found.append(self._client.get_registered_model(name))
        return _alias_page(found)

    def models_with_tag(self, tag: str) -> dict[str, str]:
        """Return the value that a tag has on each registered model that has it."""
        try:
            found = list(self._models(f"tags.`{tag}` LIKE '%'"))
        except RegistryError as error:
            if error.transient:
                raise
            found = list(self._models())  # a server that does not search by tag
        return {str(model.name): str(model.tags[tag]) for model in found if tag in model.tags}


def _alias_page(models: Iterable[RegisteredModel], next_token: str | None = None) -> AliasPage:
    aliases = {str(model.name): dict(model.aliases or {}) for model in models}
    pairs = (
        (ModelVersionRef(name, str(to)), str(alias)) for name, held in aliases.items() for alias, to in held.items()
    )
    return AliasPage(frozenset(aliases), frozenset(pairs), next_token)
