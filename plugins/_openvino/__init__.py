"""OpenVINO: converted, quantised by NNCF, named, run and described, without its telemetry.

OpenVINO and NNCF report every conversion to Google Analytics unless a person has opted out in their
home folder. Both also work without the package that does the reporting, so it is made unfindable in the
children, which import this package before either of them.
"""

from __future__ import annotations

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # importing it raises ModuleNotFoundError
