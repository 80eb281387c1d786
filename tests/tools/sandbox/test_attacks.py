"""Hostile programs at the default level, as root and as a plain user; the harm they would do is looked for outside."""

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import attacks
import pytest
from plain_user import PLAIN_USER, as_user, copy_packages, public_folder, python_for, skip_unless_possible
from processes import descendants, is_gone, named

from arpo_tools.sandbox import kernel, syscalls

pytestmark = pytest.mark.slow

KEY = str(0x4152)
"""Of the SysV objects that an attack tries to make; the machine may have others."""
MACHINE = kernel.MACHINES.get(kernel.machine(), 0)
NUMBERS = {name: row[MACHINE] for group in syscalls.GROUPS for name, row in group.items() if row[MACHINE] is not None}

USUAL = {"timeout_seconds": 20}
SHORT = {"timeout_seconds": 1, "libraries": []}
"""For attacks that hang."""
SCRATCH = {"timeout_seconds": 20, "scratch_mb": 4, "libraries": []}


@dataclasses.dataclass
class World:
    """An owner of a tool and what a program could steal or harm."""

    owner: subprocess.Popen
    errors: IO[str]
    folder: Path
    secret: str
    words: dict[str, str]
    listeners: list[socket.socket]
    victim: int
    processes: int = 0
    level: str = ""

    def run(self, code: str, **options) -> tuple[str, str]:
        """Run a program; return its text and status."""
        return self.run_together([(code, options or USUAL)])[0]

    def run_together(self, calls: list[tuple[str, dict]]) -> list[tuple[str, str]]:
        """Run programs at the same time, each with its options."""
        self.send(calls)
        return self.receive()

    def send(self, calls: list[tuple[str, dict]]) -> None:
        self.owner.stdin.write(json.dumps([(self.fill_in(code), options) for code, options in calls]) + "\n")
        self.owner.stdin.flush()

    def receive(self) -> list[tuple[str, str]]:
        answers = self.read()
        self.level = answers[0]["level"]
        assert all(answer["level"].endswith("landlock+seccomp") for answer in answers)
        return [(answer["text"], answer["status"]) for answer in answers]

    def read(self) -> list | dict:
        """Return what the owner says.

        Raises:
            AssertionError: it has ended.
        """
        line = self.owner.stdout.readline()
        self.errors.seek(0)
        assert line, f"the owner has ended with code {self.owner.wait()}: {self.errors.read()[-2000:]}"
        return json.loads(line)

    def fill_in(self, code: str) -> str:
        for word, value in self.words.items():
            code = code.replace(word, value)
        return attacks.PRELUDE.replace("{numbers}", repr(NUMBERS)) + code

    def state(self) -> dict:
        """Everything outside that a program could change."""
        files = {
            str(path): (
                path.lstat()[:9],
                os.listxattr(path, follow_symlinks=False),
                path.is_file() and path.read_bytes(),
            )
            for path in [self.folder, *self.folder.rglob("*"), Path(os.__file__)]
        }
        return {
            "files": {path: (status[:7] + status[8:], *rest) for path, (status, *rest) in files.items()},  # not atime
            "victim": Path(f"/proc/{self.victim}/stat").read_text().split()[2:3],
            "victim's priority": os.getpriority(os.PRIO_PROCESS, self.victim),
            "victim's processors": os.sched_getaffinity(self.victim),
            "victim's limits": Path(f"/proc/{self.victim}/limits").read_text(),
            "owner's limits": Path(f"/proc/{self.owner.pid}/limits").read_text(),
            "shared memory": [name for name in os.listdir("/dev/shm") if "arpo-attack" in name],
            "SysV": [Path(f"/proc/sysvipc/{kind}").read_text().split().count(KEY) for kind in ("shm", "sem", "msg")],
        }

    def settle(self) -> None:
        """Wait until nothing runs but helpers, each with its spare child.

        Fails if something else is left after 30 s.
        """
        deadline = time.monotonic() + 30
        while len(descendants(self.owner.pid)) != self.processes and time.monotonic() < deadline:
            time.sleep(0.005)
        assert len(descendants(self.owner.pid)) == self.processes
        assert named("arpo-program", self.owner.pid) == set()

    def messages(self) -> list[str]:
        """What has arrived from the network."""
        arrived = []
        for listener in self.listeners:
            try:
                arrived.append(str(listener.recv(99) if listener.type == socket.SOCK_DGRAM else listener.accept()))
            except BlockingIOError:
                continue
        return arrived


@pytest.fixture(scope="module", params=["root", "plain user"])
def world(request):
    user = 0 if request.param == "root" else os.geteuid() or PLAIN_USER
    skip_unless_possible(user)
    python = python_for(user)
    folder = public_folder(user, "arpo-attacks-")
    try:
        yield from _world(folder, user, python)
    finally:
        shutil.rmtree(folder)


def _world(folder: Path, user: int, python: str) -> Iterator[World]:
    secret, abstract = secrets.token_hex(16), f"arpo-{secrets.token_hex(8)}"
    packages = folder / "packages"  # outside what is watched
    search_path = copy_packages(packages, user, python)
    shutil.copy(Path(__file__).parent / "sandbox_owner.py", packages)
    (packages / "sandbox_owner.py").chmod(0o644)
    target = folder / "target"
    for path in (target, target / "empty"):
        path.mkdir()
    (target / "secret").write_text(secret)
    for module in ("evil", "statistics", "numpy", "sitecustomize"):
        (target / f"{module}.py").write_text(f"open({str(target / 'imported')!r}, 'w')\nprint('GOT THROUGH')\n")
    listeners = _listen(str(target / "socket"), abstract)
    for path in (target, *target.rglob("*")):
        os.chown(path, user, user)
    environment = {"PATH": os.environ["PATH"], "ARPO_TEST_SECRET": secret, "PYTHONPATH": search_path}
    command = [*as_user(user), python, "-P"] if sys.version_info >= (3, 11) else [*as_user(user), python]
    command += [str(packages / "sandbox_owner.py"), str(target / "secret")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    errors = (folder / "errors").open("w+")
    with errors, subprocess.Popen(command, cwd=target, env=environment, stderr=errors, **pipes) as owner:
        try:
            words = {"SECRET_FILE": str(target / "secret"), "FOLDER": str(target), "ABSTRACT": abstract}
            words |= {"OWNER": str(owner.pid), "PORT": str(listeners[0].getsockname()[1])}
            world = World(owner, errors, target, secret, words, listeners, victim=0)
            world.victim = world.read()["victim"]
            words["VICTIM"] = str(world.victim)
            helpers = [USUAL, SHORT, SCRATCH]
            world.run_together([("1", options) for options in [*helpers, USUAL]])
            world.processes = 1 + len(helpers) * (2 + 2 * ("bubblewrap" in world.level))
            world.settle()
            yield world
        finally:
            owner.stdin.close()
            owner.wait()
            for listener in listeners:
                listener.close()


def _listen(path: str, abstract: str) -> list[socket.socket]:
    tcp = socket.create_server(("127.0.0.1", 0))
    udp, by_path, by_name = (socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, 1, 1))
    udp.bind(tcp.getsockname())
    by_path.bind(path)
    by_name.bind(f"\0{abstract}")
    for listener in (tcp, udp, by_path, by_name):
        listener.setblocking(False)
    return [tcp, udp, by_path, by_name]


HANGING = (
    *("close the output and stay", "unmap", "stop itself", "ignore every signal", "hang at the end"),
    *("hang in a thread", "hang in threads that compute", "regular expression", "huge integer", "deep recursion"),
    *("processor time", "4 GB bit by bit"),
)
"""Attacks that last until a limit ends them."""


@pytest.mark.parametrize("name", [name for name in attacks.ALL if name not in HANGING])
def test_an_attack_does_no_harm_and_learns_nothing(world, name):
    check(world, attacks.ALL[name], USUAL)


@pytest.mark.parametrize("name", attacks.SCRATCH)
def test_an_attack_from_a_scratch_directory_does_no_harm_and_learns_nothing(world, name):
    check(world, attacks.SCRATCH[name], SCRATCH)


@dataclasses.dataclass
class LongRuns:
    """What has become of the programs that last long, which have run at the same time."""

    results: dict[str, tuple[str, str]]
    owners_in_proc: set[int]
    """Who owns a file of theirs in /proc that belongs to root where a process may not be dumped."""


@pytest.fixture(scope="module")
def long_runs(world) -> LongRuns:
    """Run all that hangs, a program that holds a secret, and one that looks for it, at the same time."""
    before = world.state()
    assert world.run(f"x = '{world.secret}'; print(x)") == (world.secret, "ok")
    calls = {name: (attacks.ALL[name], SHORT) for name in HANGING}
    calls["4 GB bit by bit"] = (attacks.ALL["4 GB bit by bit"], USUAL)
    calls |= {"holder": (f"y = '{world.secret}'; time.sleep(60)", SHORT), "scan": (scan_for(world.secret), USUAL)}
    calls |= {"futex waiter": (FUTEX + WAIT, USUAL), "futex waker": (FUTEX + WAKE, USUAL)}
    calls |= {f"random calls {seed}": (FUZZ.replace("{seed}", str(seed)), SHORT) for seed in SEEDS}
    world.send([*calls.values()])
    while not (programs := named("arpo-program", world.owner.pid)):
        time.sleep(0.01)
    owners = set()
    for pid in programs:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            owners.add(os.stat(f"/proc/{pid}/mem").st_uid)
    results = dict(zip(calls, world.receive(), strict=True))
    assert_no_harm(world, before, SHORT)
    assert_no_harm(world, before, USUAL)
    return LongRuns(results, owners)


@pytest.mark.parametrize("name", HANGING)
def test_an_attack_that_hangs_does_no_harm_and_learns_nothing(world, long_runs, name):
    assert_nothing_learned(world, *long_runs.results[name])


def check(world: World, code: str, options: dict) -> None:
    """Run an attack and look for its harm."""
    before = world.state()
    assert_nothing_learned(world, *world.run(code, **options))
    assert_no_harm(world, before, options)


def assert_nothing_learned(world: World, text: str, status: str) -> None:
    assert "GOT THROUGH" not in text
    assert world.secret not in text
    assert status != "infrastructure_error"
    assert len(text) <= 10_100


def assert_no_harm(world: World, before: dict, options: dict) -> None:
    assert world.state() == before
    assert world.messages() == []
    assert not is_gone(world.victim)
    # The helper serves on; a busy machine may let a program run into a short limit.
    assert any(world.run("6 * 7", **options) == ("42", "ok") for _ in range(3))
    world.settle()


def test_no_core_is_dumped_of_a_program_that_crashes(world, long_runs):
    if os.stat(f"/proc/{world.owner.pid}").st_uid == 0:
        pytest.skip("root's processes look the same whether they may be dumped or not")
    # What may not be dumped belongs to root in /proc.
    assert long_runs.owners_in_proc == {0}


SCAN = """
r, w = os.pipe()
first, rest = bytes.fromhex('{first}'), hash(bytes.fromhex('{rest}'))
del gc, mmap
found = 0
for start in (id(object()), id(sys), ctypes.addressof(ctypes.create_string_buffer(1 << 20))):
    for page in range((start & ~4095) - (32 << 20), (start & ~4095) + (32 << 20), 4096):
        if libc.write(w, ctypes.c_void_p(page), 4096) == 4096:  # an error, and no crash, where nothing is mapped
            content = os.read(r, 4096)
            at = content.find(first)
            while at >= 0:
                found += hash(content[at + 16 : at + 32]) == rest
                at = content.find(first, at + 1)
print(found)
"""


def scan_for(secret: str) -> str:
    """Return a program that counts a secret of 32 characters in its memory, without ever holding it in one piece."""
    first, rest = secret[:16].encode().hex(), secret[16:].encode().hex()
    return SCAN.replace("{first}", first).replace("{rest}", rest)


def test_a_program_finds_nothing_of_others_in_its_memory(long_runs):
    assert long_runs.results["scan"] == ("0", "ok")


def test_the_scan_of_memory_finds_what_is_there(world):
    text, _ = world.run(f"x = '{world.secret}' * 2\n{scan_for(world.secret)}")
    assert int(text) > 0


FUTEX = """
page = ctypes.cast(libc.qsort, ctypes.c_void_p).value & ~4095
value = ctypes.c_int.from_address(page).value
"""
WAIT = """
end = time.time() + 1
while time.time() < end:
    try:
        call('futex', ctypes.c_void_p(page), 0, value, struct.pack('ll', 0, 100_000_000), None, 0)
        print('GOT THROUGH: woken')
    except OSError as error:
        if error.errno == 110: print('GOT THROUGH: waited')
"""
WAKE = """
end = time.time() + 1
while time.time() < end:
    attempt(call, 'futex', ctypes.c_void_p(page), 1, 100, None, None, 0)
    time.sleep(0.05)
"""


def test_programs_cannot_signal_each_other_by_a_futex_on_a_page_that_they_share(long_runs):
    assert [long_runs.results[f"futex {part}"][1] for part in ("waiter", "waker")] == ["empty", "ok"]
    assert "GOT THROUGH" not in long_runs.results["futex waiter"][0] + long_runs.results["futex waker"][0]


FUZZ = """
import random
generator = random.Random({seed})
buffer = ctypes.create_string_buffer(b'SECRET_FILE' + bytes(4096))
values = [0, 1, 2, 3, 5, 9, 17, 64, 4096, 0x10000, -1, -2, -100, 2**31, 2**32, 2**63 - 1, 0o101, 0o1102]
values += [ctypes.addressof(buffer)] * 8 + [OWNER, VICTIM, os.getppid(), os.getpid(), 1]
ends = ['exit', 'exit_group', 'pause', 'rt_sigsuspend', 'rt_sigreturn', 'brk', 'munmap', 'mremap', 'mprotect', 'close']
ends += ['close_range', 'dup2', 'dup3', 'madvise', 'arch_prctl', 'shmdt', 'rt_sigtimedwait', 'wait4', 'waitid']
numbers = [n for n in range(470) if n not in [NUMBERS.get(name) for name in ends]]
count = 0
end = time.time() + 0.5
signal.alarm(2)
while time.time() < end:
    for _ in range(100):
        arguments = [ctypes.c_long(generator.choice(values)) for _ in range(6)]
        libc.syscall(ctypes.c_long(generator.choice(numbers)), *arguments)
        count += 1
        if count in (1, 25): os.write(1, b'%d ' % count)
"""
SEEDS = range(6)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_system_calls_do_no_harm(world, long_runs, seed):
    text, status = long_runs.results[f"random calls {seed}"]
    assert text.startswith("1 25")
    assert_nothing_learned(world, text, status)
