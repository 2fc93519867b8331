"""Reading and writing model versions, their files, tags and metrics."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from registry_export.entities import ModelVersionRef
from registry_export.errors import ModelVersionNotFoundError
from registry_export.registry.calls import is_refused
from registry_export.registry.listings import Listings
from registry_export.registry.location import split_model_uri
from registry_export.registry.runs import ExportRuns
from registry_export.registry.version_files import VersionFiles
from registry_export.registry.version_info import OWN_TAGS, VersionInfo, info_of, ref_of


class Registry(Listings, VersionFiles, ExportRuns):
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
                return ref_of(self._client.get_model_version_by_alias(name, value))
            if value.isdecimal():
                return ref_of(self._client.get_model_version(name, value))
            stages = None if value.lower() == "latest" else [value]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # stages are deprecated, and are what was asked for
                found = self._client.get_latest_versions(name, stages=stages)
        if not found:
            raise ModelVersionNotFoundError(f"No version of {name} is in stage {value}.")
        return ref_of(max(found, key=lambda version: int(version.version)))

    def version(self, ref: ModelVersionRef) -> VersionInfo:
        """Read a version.

        Raises:
            ModelVersionNotFoundError: It does not exist, or was deleted.
        """
        with self._calls(f"read {ref}"):
            found = self._client.get_model_version(ref.name, ref.version)
            place = self._place(ref, found)
        return info_of(found, place)

    def glance(self, ref: ModelVersionRef) -> VersionInfo:
        """Read a version in one call: as `version` does, without looking up its experiment.

        Raises:
            ModelVersionNotFoundError: It does not exist, or was deleted.
        """
        with self._calls(f"read {ref}"):
            return info_of(self._client.get_model_version(ref.name, ref.version))

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
                    if not (name.startswith(OWN_TAGS) and is_refused(error)):
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
