"""Who runs programs, and what they can read, where Python, its libraries or the checkout lie in private folders."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from plain_user import (
    PLAIN_USER,
    as_user,
    can_read,
    copy_package,
    copy_packages,
    public_folder,
    python_for,
    skip_unless_possible,
)

pytestmark = pytest.mark.slow

NEIGHBOUR = PLAIN_USER + 1
TRAINER = """
import asyncio, dataclasses, json, sys
from arpo_tools import PythonInterpreter
from arpo_tools.sandbox.launch import make_plan
from arpo_tools.sandbox.limits import ProgramLimits
from arpo_tools.sandbox.probe import probe

options, codes = map(json.loads, sys.argv[1:])

async def main():
    plan = make_plan(ProgramLimits(60, 5, 1024, 16), "auto", options.get("libraries", []))
    answer = {"unreadable": probe(plan).unreadable, "missing": probe(plan).missing, "refused": "", "results": []}
    try:
        python = PythonInterpreter(timeout_seconds=60, **{"libraries": []} | options)
        answer["results"] = [(await python.run(code)).text for code in codes]
    except ValueError as error:
        answer["refused"] = str(error)
    print(json.dumps(answer))

asyncio.run(main())
"""


class Machine:
    """A machine with homes: each is private, and holds a library of its owner's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = python_for(PLAIN_USER)
        self.packages = copy_packages(folder / "packages", PLAIN_USER, self.python)

    def home(self, user: int, library: str, mode: int = 0o700) -> Path:
        """Make a user's home and return the folder in it where the library lies."""
        libraries = self.folder / f"home-{user}" / "env" / "libraries"
        (libraries / library).mkdir(parents=True)
        (libraries / library / "__init__.py").write_text("import threading\n")
        (libraries / library / "later.py").write_text(f"name = {library!r}\n")
        home = libraries.parent.parent
        for path in (home, *home.rglob("*")):
            os.chown(path, user, user)
        home.chmod(mode)
        return libraries

    def train(self, user: int, folders: list[Path], codes: list[str], **options) -> dict:
        """Run programs as a trainer of the user's would."""
        search_path = ":".join([str(self.folder / "packages"), *map(str, folders)])
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": search_path, **options.pop("environment", {})}
        command = [*options.pop("before", []), *as_user(user), self.python, "-B", "-c", TRAINER]
        arguments = [json.dumps(options), json.dumps(codes)]
        done = subprocess.run([*command, *arguments], cwd="/", env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def machine():
    skip_unless_possible(0)
    skip_unless_possible(PLAIN_USER)
    folder = public_folder(PLAIN_USER, "arpo-users-")
    try:
        yield Machine(folder)
    finally:
        shutil.rmtree(folder)


WHO = "import os\nos.getuid(), os.getgid(), os.getgroups()"
USE = "import mine.later\nmine.later.name"
STANDARD = "import colorsys\ncolorsys.rgb_to_hls(0, 0, 0)"
THREAD = "import threading\nt = threading.Thread(target=print, args=('in a thread',))\nt.start()"
PROGRAMS = [USE, STANDARD, THREAD, "open('/proc/self/status')", "import os\nos.fork()"]


def assert_works_behind_walls(results: list[str]) -> None:
    assert results[:3] == ["'mine'", "(0.0, 0.0, 0.0)", "in a thread"]
    assert "PermissionError" in results[3]
    assert "PermissionError" in results[4]


@pytest.mark.parametrize("user", [0, PLAIN_USER])
@pytest.mark.parametrize("scratch_mb", [0, 4])
def test_libraries_in_a_private_home_can_be_used_by_its_owner_and_by_root(machine, user, scratch_mb):
    libraries = machine.home(PLAIN_USER, "mine")
    codes = [WHO, *PROGRAMS]
    answer = machine.train(user, [libraries], codes, libraries=["mine"], scratch_mb=scratch_mb)
    if "namespace" in answer["results"][0]:
        pytest.skip("this machine allows no scratch directory")
    # Root without privileges could not read them: their owner runs the programs.
    assert answer["results"][0] == f"({PLAIN_USER}, {PLAIN_USER}, [])"
    assert_works_behind_walls(answer["results"][1:])
    assert answer["unreadable"] == []


def test_root_stays_root_where_it_can_read_all(machine):
    libraries = machine.home(PLAIN_USER, "mine", mode=0o755)
    answer = machine.train(0, [libraries], [WHO, *PROGRAMS], libraries=["mine"])
    assert answer["results"][0].startswith("(0, 0, ")
    assert_works_behind_walls(answer["results"][1:])


def test_a_package_that_only_its_owner_can_read_counts_too(machine):
    libraries = machine.home(PLAIN_USER, "mine", mode=0o755)
    (libraries / "mine" / "__init__.py").chmod(0o600)  # installed with umask 077
    answer = machine.train(0, [libraries], [WHO, *PROGRAMS], libraries=["mine"])
    assert answer["results"][0].startswith(f"({PLAIN_USER}, ")
    assert_works_behind_walls(answer["results"][1:])


def test_a_home_that_a_group_may_read_is_read_by_its_members(machine):
    libraries = machine.home(NEIGHBOUR, "mine", mode=0o750)
    os.chown(machine.folder / f"home-{NEIGHBOUR}", NEIGHBOUR, PLAIN_USER)
    answer = machine.train(PLAIN_USER, [libraries], [WHO, *PROGRAMS], libraries=["mine"])
    assert answer["results"][0].startswith(f"({PLAIN_USER}, ")
    assert_works_behind_walls(answer["results"][1:])


def test_what_lies_in_private_homes_of_two_users_is_named_as_far_as_nobody_can_read_both(machine):
    folders = [machine.home(PLAIN_USER, "mine"), machine.home(NEIGHBOUR, "theirs")]
    answer = machine.train(0, folders, [], libraries=["mine", "theirs"])
    [unreadable] = answer["unreadable"]
    assert unreadable in map(str, folders)
    assert any(unreadable in sentence and "chmod o+rX" in sentence for sentence in answer["missing"])
    assert "programs can't import here" in answer["refused"]
    assert answer["refused"].count("No module named") == 1


def test_a_private_folder_for_temporary_files_is_used(machine):
    libraries = machine.home(PLAIN_USER, "mine")
    (libraries.parent / "tmp").mkdir()
    os.chown(libraries.parent / "tmp", PLAIN_USER, PLAIN_USER)
    environment = {"TMPDIR": str(libraries.parent / "tmp")}
    codes = ["import os\nos.getcwd()", *PROGRAMS]
    answer = machine.train(0, [libraries], codes, libraries=["mine"], environment=environment)
    assert answer["results"][0].startswith(f"'{libraries.parent}/tmp/")
    assert_works_behind_walls(answer["results"][1:])


def test_threads_are_counted_where_proc_hides_processes(machine):
    libraries = machine.home(PLAIN_USER, "mine")
    hidden = ["unshare", "-m", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh"]
    if subprocess.run([*hidden, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine mounts no second /proc")
    answer = machine.train(PLAIN_USER, [libraries], PROGRAMS, libraries=["mine"], before=hidden)
    assert_works_behind_walls(answer["results"])


def test_a_private_checkout_is_copied_for_the_plain_user_of_these_tests(machine):
    private = machine.folder / "private"
    (private / "package" / "inner").mkdir(parents=True)
    (private / "package" / "inner" / "__init__.py").touch(0o600)
    private.chmod(0o700)
    assert not can_read(PLAIN_USER, private / "package")
    copy_package("package", private / "package", machine.folder / "packages")
    assert can_read(PLAIN_USER, machine.folder / "packages" / "package" / "inner" / "__init__.py")
