"""The part of MLflow that the hook rests on: two mapped classes, a few columns, one group of entry points."""

from __future__ import annotations

import inspect

import pytest
import sqlalchemy
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlModelVersionTag, SqlRegisteredModelAlias


@pytest.mark.parametrize(
    ("mapped", "table", "columns"),
    [
        (SqlModelVersion, "model_versions", {"name", "version", "current_stage", "source"}),
        (SqlRegisteredModelAlias, "registered_model_aliases", {"name", "alias", "version"}),
        (SqlModelVersionTag, "model_version_tags", {"name", "version", "key", "value"}),
    ],
)
def test_the_mapped_classes_have_the_columns_that_the_hook_reads(mapped, table, columns):
    assert mapped.__tablename__ == table
    assert columns <= {column.key for column in sqlalchemy.inspect(mapped).column_attrs}


def test_a_version_carries_the_tags_that_are_written_with_it():
    assert "model_version_tags" in sqlalchemy.inspect(SqlModelVersion).relationships


def test_a_tags_key_is_its_primary_key():
    names = {column.name for column in SqlModelVersionTag.__table__.primary_key}
    assert names - {"workspace"} == {"name", "version", "key"}


def test_both_store_registries_load_our_entry_point():
    from mlflow.server.handlers import ModelRegistryStoreRegistryWrapper
    from mlflow.tracking._model_registry.utils import _get_store_registry

    from registry_export.hook import attach_to_mlflow

    for registry in (ModelRegistryStoreRegistryWrapper(), _get_store_registry()):
        assert registry._registry["registry-export-hook"] is attach_to_mlflow


def test_the_listeners_are_attached():
    from registry_export import hook

    for mapped, name, listener in (
        (SqlModelVersion, "after_update", hook._version_updated),
        (SqlModelVersion, "after_insert", hook._version_inserted),
        (SqlRegisteredModelAlias, "after_insert", hook._alias_set),
        (SqlRegisteredModelAlias, "after_update", hook._alias_updated),
    ):
        assert sqlalchemy.event.contains(mapped, name, listener)


def test_the_stages_that_are_no_promotion_are_mlflows():
    from mlflow.entities.model_registry import model_version_stages as stages

    from registry_export.outbox import UNPROMOTED_STAGES

    assert {stages.STAGE_NONE, stages.STAGE_ARCHIVED, stages.STAGE_DELETED_INTERNAL} == UNPROMOTED_STAGES


def test_a_prompt_is_told_by_its_tag():
    from mlflow.prompt.constants import IS_PROMPT_TAG_KEY

    from registry_export.queueing import PROMPT_TAG

    assert IS_PROMPT_TAG_KEY == PROMPT_TAG


def test_mlflow_catches_import_errors_of_an_entry_point_alone():
    """Were it to catch everything, the hook's own guard could go."""
    from mlflow.tracking.registry import StoreRegistry

    assert "except (AttributeError, ImportError)" in inspect.getsource(StoreRegistry.register_entrypoints)
