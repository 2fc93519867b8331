"""Reading and writing model versions, their files, tags and metrics."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from registry_export.entities import ModelVersionRef
from registry_export.errors import ModelVersionNotFoundError, RegistryError
from registry_export.registry.calls import is_refused
from registry_export.registry.location import Location, logged_model_in, split_model_uri
from registry_export.registry.runs import ExportRuns
from registry_export.registry.version_files import VersionFiles

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


_FIRST_PAGE, _PAGE = 100, 1000
_NAMES = 50  # to a query, which travels in a URL
_OWN_TAGS = "registry_export."
_QUOTED = re.compile(r"['\"`\\%]")


@dataclass(frozen=True)
class VersionInfo:
    """One model version as the registry has it.

    Attributes:
        source: Where it was registered from (`models:/m-...`, `runs:/...`, a path).
        run_id: The run that logged it, or None.
        logged_model_id: The logged model that it is, or None for the folder of a run.
        stage: `None`, `Staging`, `Production` or `Archived`, as MLflow writes them.
        last_updated_ms: Milliseconds since the epoch; MLflow moves it for stages and descriptions,
            not for aliases and tags.
        status: MLflow's own (`READY`).
        files_id: The same for all versions that share a folder of files; empty where it was not looked up.
    """

    ref: ModelVersionRef
    source: str
    run_id: str | None = None
    logged_model_id: str | None = None
    stage: str = "None"
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    experiment_id: str | None = None
    last_updated_ms: int = 0
    status: str = "READY"
    files_id: str = ""


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


class Registry(VersionFiles, ExportRuns):
    """A model registry and its artifact store.

    Args:
        tracking_uri: MLflow's tracking URI; None for what `MLFLOW_TRACKING_URI` says. Versions whose
            files are served by the server (`mlflow-artifacts:`) need an HTTP one.
    """

    def ping(self) -> None:
        """See whether the registry answers this user: a call that costs little.

        Raises:
            RegistryError: It does not.
        """
        with self._calls("list registered models"):
            self._client.search_registered_models(max_results=1)

    def resolve(self, model_uri: str) -> ModelVersionRef:
        """Return the version that a URI means now.

        Args:
            model_uri: `models:/name/3`, `models:/name@alias`, `models:/name/Staging` or `models:/name/latest`.

        Raises:
            ConfigurationError: It is no URI of a registered model's version.
            ModelVersionNotFoundError: Nothing is registered there.
        """
        name, kind, value = split_model_uri(model_uri)
        with self._calls(f"find {model_uri}"):
            if kind == "alias":
                return _ref(self._client.get_model_version_by_alias(name, value))
            if value.isdecimal():
                return _ref(self._client.get_model_version(name, value))
            stages = None if value.lower() == "latest" else [value]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # stages are deprecated, and are what was asked for
                found = self._client.get_latest_versions(name, stages=stages)
        if not found:
            raise ModelVersionNotFoundError(f"No version of {name} is in stage {value}.")
        return _ref(max(found, key=lambda version: int(version.version)))

    def version(self, ref: ModelVersionRef) -> VersionInfo:
        """Read a version.

        Raises:
            ModelVersionNotFoundError: It does not exist, or was deleted.
        """
        with self._calls(f"read {ref}"):
            found = self._client.get_model_version(ref.name, ref.version)
            place = self._place(ref, found)
        return _info(found, place)

    def glance(self, ref: ModelVersionRef) -> VersionInfo:
        """Read a version in one call: as `version` does, without looking up its experiment.

        Raises:
            ModelVersionNotFoundError: It does not exist, or was deleted.
        """
        with self._calls(f"read {ref}"):
            return _info(self._client.get_model_version(ref.name, ref.version))

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
            found |= {info.ref: info for info in map(_info, page) if info.ref in wanted}
        return found

    def versions_changed_since(self, timestamp_ms: int) -> Iterator[VersionInfo]:
        """Yield versions updated at or after a time, newest first; the cost grows with their number.

        MLflow counts stage transitions and descriptions as updates, not aliases and tags. The
        experiment is not looked up.

        Args:
            timestamp_ms: Milliseconds since the epoch, by the server's clock.
        """
        token: str | None = None
        count = _FIRST_PAGE  # is seldom followed by another; where it is, the rest comes in few calls
        while True:
            with self._calls("list model versions"):
                page = self._client.search_model_versions(
                    max_results=count, order_by=["last_updated_timestamp DESC"], page_token=token
                )
            for found in page:
                if int(found.last_updated_timestamp or 0) < timestamp_ms:
                    return
                yield _info(found)
            token, count = page.token, _PAGE
            if not token:
                return

    def alias_page(self, token: str | None = None) -> AliasPage:
        """Read the aliases of the next hundred registered models.

        Args:
            token: Where the page before ended; None for the first.
        """
        with self._calls("list registered models"):
            page = self._client.search_registered_models(max_results=_FIRST_PAGE, page_token=token)
        aliases = {
            (ModelVersionRef(model.name, str(version)), str(alias))
            for model in page
            for alias, version in dict(model.aliases or {}).items()
        }
        return AliasPage(frozenset(model.name for model in page), frozenset(aliases), page.token or None)

    def models_with_tag(self, tag: str) -> dict[str, str]:
        """Return the value that a tag has on each registered model that has it."""
        found: dict[str, str] = {}
        token: str | None = None
        while True:
            with self._calls("list registered models"):
                page = self._client.search_registered_models(
                    filter_string=f"tags.`{tag}` LIKE '%'", max_results=_PAGE, page_token=token
                )
            found |= {str(model.name): str(model.tags.get(tag, "")) for model in page}
            token = page.token
            if not token:
                return found

    def model_tags(self, name: str) -> dict[str, str]:
        """Read the tags of a registered model.

        Raises:
            ModelVersionNotFoundError: It does not exist.
        """
        with self._calls(f"read {name}"):
            return dict(self._client.get_registered_model(name).tags)

    def set_tags(self, ref: ModelVersionRef, tags: Mapping[str, str]) -> None:
        """Set tags, in the order given."""
        for name, value in tags.items():
            with self._writes(f"tag {ref}"):
                self._versions.set_model_version_tag(ref.name, ref.version, name, value)

    def delete_tags(self, ref: ModelVersionRef, names: tuple[str, ...]) -> None:
        """Remove tags; those that are not there are passed over.

        MLflow's basic-auth lets EDIT write a tag and not remove it. Where it refuses, a tag of ours is emptied, and an
        empty one reads as none.
        """
        with self._writes(f"remove tags of {ref}"):
            for name in names:
                try:
                    self._versions.delete_model_version_tag(ref.name, ref.version, name)
                except Exception as error:
                    if not (name.startswith(_OWN_TAGS) and is_refused(error)):
                        raise
                    self._versions.set_model_version_tag(ref.name, ref.version, name, "")

    def set_description(self, ref: ModelVersionRef, description: str) -> None:
        """Replace a version's whole description."""
        with self._writes(f"describe {ref}"):
            self._versions.update_model_version(ref.name, ref.version, description)

    def set_stage(self, ref: ModelVersionRef, stage: str) -> None:
        """Move a version to a stage and leave the others where they are."""
        with self._writes(f"move {ref} to {stage}"), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self._client.transition_model_version_stage(ref.name, ref.version, stage)

    def set_alias(self, ref: ModelVersionRef, alias: str) -> None:
        """Point an alias of the registered model at this version."""
        with self._writes(f"set the alias {alias} on {ref}"):
            self._client.set_registered_model_alias(ref.name, alias, ref.version)

    def alias_version(self, name: str, alias: str) -> str | None:
        """Return the version that an alias points to; None where the model has no such alias."""
        try:
            with self._calls(f"find the alias {alias} of {name}"):
                return str(self._client.get_model_version_by_alias(name, alias).version)
        except ModelVersionNotFoundError:
            return None

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove an alias of a registered model."""
        with self._writes(f"remove the alias {alias} of {name}"):
            self._client.delete_registered_model_alias(name, alias)


def _ref(version: ModelVersion) -> ModelVersionRef:
    return ModelVersionRef(name=str(version.name), version=str(version.version))


def _files_id(place: Location) -> str:
    return place.logged_model_id or hashlib.sha256(place.uri.encode()).hexdigest()


def _info(version: ModelVersion, place: Location | None = None) -> VersionInfo:
    return VersionInfo(
        ref=_ref(version),
        source=str(version.source or ""),
        run_id=version.run_id or None,
        logged_model_id=place.logged_model_id if place else logged_model_in(version.source),
        stage=str(version.current_stage or "None"),
        aliases=tuple(version.aliases or ()),
        tags={name: value for name, value in (version.tags or {}).items() if value or not name.startswith(_OWN_TAGS)},
        description=version.description or "",
        experiment_id=place.experiment_id if place else None,
        files_id=_files_id(place) if place else "",
        last_updated_ms=int(version.last_updated_timestamp or 0),
        status=str(version.status),
    )
