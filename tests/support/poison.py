"""A toolchain that takes the Dask worker along which starts it, as one may for which a machine is too small."""

import os
import signal

os.kill(os.getppid(), signal.SIGKILL)
