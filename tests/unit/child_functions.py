"""Functions that the isolation tests run in children."""

import ctypes
import inspect
import os
import resource
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from unittest import mock

from registry_export.errors import UnsupportedModelError

exercised: list[int] = []


def echo(arguments):
    return arguments


def environment(arguments):
    return dict(os.environ)


def surroundings(arguments):
    return {"cwd": str(Path.cwd()), "pid": os.getpid(), "json": "json" in sys.modules}


def refuse(arguments):
    raise UnsupportedModelError("No Foo here.", remedy="Use Bar.", step="a -> b")


def raise_stranger(arguments):
    raise ZeroDivisionError("one by zero")


def warn(arguments):
    warnings.warn("mind the gap", stacklevel=1)
    return 1


def crash(arguments):
    print("about to crash", flush=True)
    ctypes.string_at(0)


def leave(arguments):
    os._exit(7)


def compute(arguments):
    while time.process_time() < arguments["seconds"]:
        pass


def hang(arguments):
    time.sleep(600)


def eat(arguments):
    held = []
    while True:
        held.append(bytearray(os.urandom(1024)) * 1024 * 16)


def let_two_others_eat(arguments):
    held = (
        "import time; held = bytearray(b'x') * 200_000_000; time.sleep(600)"  # each within the limit, which it inherits
    )
    others = [subprocess.Popen([sys.executable, "-c", held]) for _ in range(2)]
    return [other.wait() for other in others]


def grab(arguments):
    return len(bytearray(1 << 44))


def imported(arguments):
    import sys

    return arguments["module"] in sys.modules


def count_reads_of_torchlib(arguments):
    """Export a net to ONNX; returns how many functions' sources were parsed for it, and how many signatures read."""
    import torch
    from onnxscript._internal import ast_utils

    with (
        mock.patch.object(ast_utils, "get_src_and_ast", wraps=ast_utils.get_src_and_ast) as parsed,
        mock.patch.object(inspect, "signature", wraps=inspect.signature) as asked,
    ):
        torch.onnx.export(torch.nn.ReLU(), (torch.zeros(2, 3),), dynamo=True, verbose=False)
    of_torchlib = [call for call in asked.call_args_list if "torch_lib" in str(getattr(call.args[0], "__module__", ""))]
    return parsed.call_count, len(of_torchlib)


def read(arguments):
    return {name: _tried(lambda path=path: Path(path).read_text()) for name, path in arguments.items()}


def write(arguments):
    return {
        name: _tried(lambda path=path: Path(path).write_text("x") and "written") for name, path in arguments.items()
    }


def _tried(function):
    try:
        return function()
    except OSError as error:
        return type(error).__name__


def import_wave(arguments):
    import wave

    return wave.__name__


def exercise():
    print("exercised")
    exercised.append(os.getpid())


def exercised_by(arguments):
    return exercised[0] if exercised else None


def refuse_exercise():
    raise OSError("not today")


def leave_a_thread():
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()


def look_for_formats(arguments):
    from registry_export import conversion, replay

    del replay
    return list(conversion.discover_formats())


def take_a_second():
    time.sleep(1)


def hang_in_exercise():
    time.sleep(600)


def late_value(arguments):
    import importlib

    return importlib.import_module("late_module").VALUE


def hang_with_others(arguments):
    """Hang, with one descendant in the same session and one in a session of its own."""
    asleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    others = [subprocess.Popen(asleep, start_new_session=new) for new in (False, True)]
    Path("others").write_text(" ".join(str(other.pid) for other in others))
    time.sleep(600)


def process_limit(_):
    return resource.getrlimit(resource.RLIMIT_NPROC)[0]
