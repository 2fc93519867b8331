"""Every conversion and every inference of a checkpoint runs in a child process of its own.

Converters crash, hang, leak and clash, and loading a checkpoint is running its author's code. A child
is forked from a warm parent that has imported the toolchain; it has a private folder, limits, an environment
without the registry's credentials, and walls around it. `parent` and `child` run on the far side of the fork. What
a child answers and leaves is data that may be lies: it is checked here.
"""

from registry_export.isolation.leavings import check_within
from registry_export.isolation.limits import Limits
from registry_export.isolation.parents import TRIES, WarmParents
from registry_export.isolation.pool import ChildPool, Outcome
from registry_export.isolation.sandbox import left_open, reached_by_children

__all__ = ["TRIES", "ChildPool", "Limits", "Outcome", "WarmParents", "check_within", "left_open", "reached_by_children"]
