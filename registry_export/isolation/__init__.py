"""Every conversion and every inference of a checkpoint runs in a child process of its own.

Converters crash, hang, leak and clash, and loading a checkpoint is running its author's code. A child
is forked from a warm parent that has imported the toolchain; it has a private folder, limits, and an
environment without the registry's credentials. `parent` and `child` run on the far side of the fork.
"""

from registry_export.isolation.limits import Limits
from registry_export.isolation.pool import ChildPool, Outcome

__all__ = ["ChildPool", "Limits", "Outcome"]
