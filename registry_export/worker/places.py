"""Where a worker's steps run: on this machine, or on a cluster."""

from __future__ import annotations

from registry_export.errors import ConfigurationError
from registry_export.isolation import ChildPool, Limits
from registry_export.pools import Pool
from registry_export.settings import BLOBS, Settings


def open_pool(settings: Settings, scheduler: str | None) -> Pool:
    """Open the pool that the children of exports run in.

    Args:
        settings: The limits of children, and the store between the machines of a cluster.
        scheduler: Address of a Dask scheduler; None: this machine.

    Raises:
        ConfigurationError: `distributed` is not installed, or there is no store.
    """
    limits = Limits(settings.child_timeout_s, settings.child_memory_bytes)
    if scheduler is None:
        return ChildPool(limits)
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
    return ClusterPool(scheduler, settings.blobs_uri, settings.tracking_uri or "", limits)
