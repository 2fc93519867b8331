"""The folders that inference servers load, made of a published export.

One file for each server: which formats it loads, and what it reads beside the model file. `layout` fetches the
export, its digests checked, and puts the folder in its place.
"""

from registry_export.layouts.layout import SERVERS as SERVERS
from registry_export.layouts.layout import Laid as Laid
from registry_export.layouts.layout import lay_out as lay_out
