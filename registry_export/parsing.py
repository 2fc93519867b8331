"""Python's own parser, one thread at a time.

Until Python 3.13 all threads share the counter by which it notices a recursion that is too deep. Where one thread
begins while another is half way (a garbage collection that runs Python code lets it), the first ends with
`SystemError: AST constructor recursion depth mismatch`. `ast.parse`, `ast.literal_eval` and, for the header of every
`.npy` file, `numpy.load` use it.
"""

from __future__ import annotations

import threading

PARSER = threading.RLock()
"""To be held around each of these."""
