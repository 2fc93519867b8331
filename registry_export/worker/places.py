"""Where steps run: on this machine, or on a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry_export.errors import ConfigurationError
from registry_export.isolation import ChildPool, Limits
from registry_export.pools import Pool
from registry_export.settings import BLOBS, Settings

if TYPE_CHECKING:
    from registry_export.cluster.pool import ClusterPool


def open_pool(settings: Settings, scheduler: str | None) -> Pool:
    """Open the pool that the children of exports run in.

    Args:
        settings: The limits of children, and the store between the machines of a cluster.
        scheduler: Address of a Dask scheduler; None: this machine.

    Raises:
        ConfigurationError: `distributed` is not installed, or there is no store.
    """
    return ChildPool(_limits(settings)) if scheduler is None else open_cluster(settings, scheduler)


def open_cluster(settings: Settings, scheduler: str) -> ClusterPool:
    """Open the pool of a cluster; nothing is asked of its scheduler yet. Arguments and errors as for `open_pool`."""
    if settings.blobs_uri is None:
        raise ConfigurationError(
            f"--scheduler needs {BLOBS}: files go to the Dask workers and back through an artifact store.",
            remedy=f"Set it to a folder that all of them may read and write, as in {BLOBS}=s3://bucket/steps.",
        )
    try:
        from registry_export.cluster.pool import ClusterPool
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"--scheduler needs the package {error.name}.", remedy="Run `pip install registry-export[dask]`."
        ) from error
    return ClusterPool(scheduler, settings.blobs_uri, settings.tracking_uri or "", _limits(settings))


def _limits(settings: Settings) -> Limits:
    return Limits(settings.child_timeout_s, settings.child_memory_bytes)
