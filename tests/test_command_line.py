"""The console script itself: its version, and what it says where a package is missing."""

import os
import subprocess
import sys

import pytest

from arpo_verl import command_line

ROOT_OF = {
    "pyarrow": ["data"],
    "hydra": ["doctor"],
    "omegaconf": ["doctor"],
    "rich": ["doctor", "data"],
    "yaml": ["doctor"],
}
"""A package, and the commands that can't be imported without it."""
CASES = [(package, command) for package, commands in ROOT_OF.items() for command in commands]


def without(package: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run the command where a package can't be imported."""
    code = f"import sys; sys.modules[{package!r}] = None; from arpo_verl.command_line import main; main({list(argv)})"
    variables = {key: value for key, value in os.environ.items() if not key.startswith("VERL_")}
    return subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120)


def test_the_version_is_the_distributions(capsys):
    with pytest.raises(SystemExit) as end:
        command_line.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"arpo-verl {command_line.version()}\n"
    assert command_line.version()[0].isdigit()


def test_a_source_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(command_line, "DISTRIBUTION", "no-such-distribution")
    assert command_line.version() == "not installed"


@pytest.mark.parametrize(("package", "command"), CASES)
def test_help_is_given_and_the_package_named_where_one_is_missing(package, command):
    shown = without(package, command, "--help")
    assert shown.returncode == 0
    assert len(shown.stdout.splitlines()) > 3, "what the command is for"
    assert shown.stderr.startswith(f"arpo-verl {command}: the package {package} can't be imported")
    assert "Traceback" not in shown.stderr


@pytest.mark.parametrize(("package", "argv"), [("pyarrow", ["data", "list"]), ("hydra", ["doctor"])])
def test_a_command_without_its_package_ends_with_one_line(package, argv):
    ended = without(package, *argv)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert f"the package {package} can't be imported" in ended.stderr and "recipes/install.sh" in ended.stderr


def test_an_import_that_fails_in_our_own_code_is_a_traceback(monkeypatch):
    monkeypatch.setitem(command_line.COMMANDS, "data", ("arpo_verl.data.no_such_module", "nothing"))
    with pytest.raises(ModuleNotFoundError):
        command_line.main(["data", "--help"])


def test_help_of_the_whole_needs_no_package():
    shown = without("rich", "--help")
    assert shown.returncode == 0
    assert all(name in shown.stdout for name in command_line.COMMANDS)
