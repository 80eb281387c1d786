"""Hostile programs at the default level, as root and as a plain user; the harm they would do is looked for outside."""

import dataclasses
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import attacks
import pytest
from processes import descendants, is_gone, named

import arpo_tools
from arpo_tools.sandbox import kernel, syscalls

pytestmark = pytest.mark.slow

PLAIN_USER = 54321
KEY = str(0x4152)
"""Of the SysV objects that an attack tries to make; the machine may have others."""
MACHINE = kernel.MACHINES.get(kernel.machine(), 0)
NUMBERS = {name: row[MACHINE] for group in syscalls.GROUPS for name, row in group.items() if row[MACHINE] is not None}


@dataclasses.dataclass
class World:
    """An owner of a tool and what a program could steal or harm."""

    owner: subprocess.Popen
    folder: Path
    secret: str
    words: dict[str, str]
    listeners: list[socket.socket]
    victim: int
    processes: int = 0
    level: str = ""

    def run(self, *codes: str, **options) -> list[tuple[str, str]]:
        """Run programs at the same time; return the text and the status of each."""
        self.send(*codes, **options)
        return self.receive()

    def send(self, *codes: str, **options) -> None:
        request = {"codes": [self.fill_in(code) for code in codes], "options": {"timeout_seconds": 20, **options}}
        self.owner.stdin.write(json.dumps(request) + "\n")
        self.owner.stdin.flush()

    def receive(self) -> list[tuple[str, str]]:
        answer = json.loads(self.owner.stdout.readline())
        self.level = answer["level"]
        assert self.level.endswith("landlock+seccomp")
        return [tuple(result) for result in answer["results"]]

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


def python_for(user: int) -> str | None:
    """Return a Python that the user may start: this one may lie in root's home."""
    if user == os.geteuid():
        return sys.executable
    # Twice, as setpriv itself may still start what the user may not.
    code = (
        "import subprocess, sys; assert sys.version_info >= (3, 10); subprocess.check_call([sys.executable, '-c', ''])"
    )
    for python in (sys.executable, "/usr/bin/python3"):
        command = [*_as_user(user), python, "-c", code]
        if subprocess.run(command, cwd="/", capture_output=True, check=False).returncode == 0:
            return python
    return None


def _as_user(user: int) -> list[str]:
    if user == os.geteuid():
        return []
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]


@pytest.fixture(scope="module", params=["root", "plain user"])
def world(request):
    user = 0 if request.param == "root" else os.geteuid() or PLAIN_USER
    if user == 0 and os.geteuid() != 0:
        pytest.skip("the tests don't run as root")
    if user != os.geteuid() and not shutil.which("setpriv"):
        pytest.skip("setpriv, by which root becomes a plain user, is not installed")
    python = python_for(user)
    if python is None:
        pytest.skip("no Python 3.10 that a plain user may start")
    folder = Path(tempfile.mkdtemp(prefix="arpo-attacks-"))
    try:
        yield from _world(folder, user, python)
    finally:
        shutil.rmtree(folder)


def _world(folder: Path, user: int, python: str):
    secret, abstract = secrets.token_hex(16), f"arpo-{secrets.token_hex(8)}"
    packages = folder / "packages"  # outside what is watched
    packages.mkdir()
    (packages / "arpo_tools").symlink_to(Path(arpo_tools.__file__).parent)
    shutil.copy(Path(__file__).parent / "sandbox_owner.py", packages)
    target = folder / "target"
    for path in (target, target / "empty"):
        path.mkdir()
    (target / "secret").write_text(secret)
    for module in ("evil", "statistics", "numpy", "sitecustomize"):
        (target / f"{module}.py").write_text(f"open({str(target / 'imported')!r}, 'w')\nprint('GOT THROUGH')\n")
    listeners = _listen(str(target / "socket"), abstract)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink() and packages not in path.parents:
            os.chown(path, user, user)
    os.chmod(folder, 0o755)
    environment = {"PATH": os.environ["PATH"], "ARPO_TEST_SECRET": secret, "PYTHONPATH": str(packages)}
    if python == sys.executable or _version(python) == _version(sys.executable):
        environment["PYTHONPATH"] += f":{sysconfig.get_path('purelib')}"
    command = [*_as_user(user), python, "-P"] if sys.version_info >= (3, 11) else [*_as_user(user), python]
    command += [str(packages / "sandbox_owner.py"), str(target / "secret")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=target, env=environment, **pipes) as owner:
        try:
            victim = json.loads(owner.stdout.readline())["victim"]
            port = str(listeners[0].getsockname()[1])
            words = {"SECRET_FILE": str(target / "secret"), "FOLDER": str(target), "PORT": port, "ABSTRACT": abstract}
            words |= {"OWNER": str(owner.pid), "VICTIM": str(victim)}
            world = World(owner, target, secret, words, listeners, victim)
            world.run("1", "1", timeout_seconds=20)
            world.run("1", timeout_seconds=1)
            world.run("1", scratch_mb=4)
            helpers = 3  # one for each set of options
            world.processes = 1 + helpers * (2 + 2 * ("bubblewrap" in world.level))
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


def _version(python: str) -> bytes:
    return subprocess.check_output([python, "-c", "import sys; print(sys.version_info[:2])"])


def short_limit(name: str) -> dict[str, int]:
    """Attacks that hang need not hang for long."""
    hangs = ("hang", "stay", "stop", "ignore", "regular", "huge integer", "processor", "unmap", "recursion")
    return {"timeout_seconds": 1} if any(word in name for word in hangs) else {}


@pytest.mark.parametrize("name", attacks.ALL)
def test_an_attack_does_no_harm_and_learns_nothing(world, name):
    check(world, attacks.ALL[name], **short_limit(name))


@pytest.mark.parametrize("name", attacks.SCRATCH)
def test_an_attack_from_a_scratch_directory_does_no_harm_and_learns_nothing(world, name):
    check(world, attacks.SCRATCH[name], scratch_mb=4)


def check(world: World, code: str, **options) -> None:
    """Run an attack and look for its harm."""
    before = world.state()
    [(text, status)] = world.run(code, **options)
    assert "GOT THROUGH" not in text
    assert world.secret not in text
    assert status != "infrastructure_error"
    assert len(text) <= 10_100
    assert world.state() == before
    assert world.messages() == []
    assert not is_gone(world.victim)
    later = [world.run("6 * 7", **options) for _ in range(3)]  # a busy machine may let one run into a short limit
    assert [("42", "ok")] in later  # the helper serves on
    world.settle()


def test_no_core_is_dumped_of_a_program_that_crashes(world):
    if os.stat(f"/proc/{world.owner.pid}").st_uid == 0:
        pytest.skip("root's processes look the same whether they may be dumped or not")
    world.send("time.sleep(2)")
    while not (programs := named("arpo-program", world.owner.pid)):
        time.sleep(0.01)
    # What may not be dumped belongs to root in /proc.
    assert {os.stat(f"/proc/{pid}/mem").st_uid for pid in programs} == {0}
    assert world.receive() == [("(no output)", "empty")]


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


def test_a_program_finds_nothing_of_others_in_its_memory(world):
    slow = "import time; time.sleep(1)"
    before = f"x = '{world.secret}'; print(x)"
    assert world.run(before) == [(world.secret, "ok")]
    results = world.run(before, f"y = '{world.secret}'; {slow}; print(y)", scan_for(world.secret))
    assert results[2] == ("0", "ok")


def test_the_scan_of_memory_finds_what_is_there(world):
    [(text, _)] = world.run(f"x = '{world.secret}' * 2\n{scan_for(world.secret)}")
    assert int(text) > 0


FUZZ = """
import random
generator = random.Random({seed})
buffer = ctypes.create_string_buffer(b'SECRET_FILE' + bytes(4096))
values = [0, 1, 2, 3, 5, 9, 17, 64, 4096, 0x10000, -1, -2, -100, 2**31, 2**32, 2**63 - 1, 0o101, 0o1102]
values += [ctypes.addressof(buffer)] * 8 + [OWNER, VICTIM, os.getppid(), os.getpid(), 1]
ends = [NUMBERS[n] for n in ('exit', 'exit_group', 'pause', 'rt_sigsuspend', 'rt_sigreturn') if n in NUMBERS]
numbers = [n for n in range(470) if n not in ends]
end = time.time() + 0.5
signal.alarm(2)
while time.time() < end:
    for _ in range(100):
        arguments = [ctypes.c_long(generator.choice(values)) for _ in range(6)]
        libc.syscall(ctypes.c_long(generator.choice(numbers)), *arguments)
"""


@pytest.mark.parametrize("seed", range(6))
def test_random_system_calls_do_no_harm(world, seed):
    check(world, FUZZ.replace("{seed}", str(seed)), timeout_seconds=1)
