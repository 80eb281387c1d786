"""Which libraries programs have, and that the model is told: by the tool's description and by a failing import."""

import asyncio
import dataclasses
import os
from pathlib import Path

import pytest
from processes import descendants

from arpo_tools import PythonInterpreter, ToolResult, ToolStatus, open_python
from arpo_tools.sandbox import libraries
from arpo_tools.sandbox.launch import make_plan
from arpo_tools.sandbox.limits import ProgramLimits

pytestmark = pytest.mark.slow

PATIENCE = 60.0
PACKAGES = {
    "sound": "value = 42\n",
    "sound_inside": "import arpo_no_such_module_inside\n",
    "raises": "raise RuntimeError('no licence')\n",
    "writes": "open(__file__ + '.new', 'w').close()\n",
    "connects": "import socket\nsocket.create_connection(('127.0.0.1', 9), 1)\n",
    "forks": "import os\nos.fork()\n",
    "crashes": "import ctypes\nctypes.string_at(0)\n",
    "greedy": "block = bytearray(1 << 30)\n",
    "threaded": "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\nvalue = 7\n",
    "homely": "import os, pathlib\nplace = pathlib.Path(os.environ['HOME'], 'setting')\nplace.write_text('x')\n",
}


@pytest.fixture
def packages(tmp_path, monkeypatch) -> Path:
    """Packages of all kinds, installed where this process finds them."""
    for name, content in PACKAGES.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(content)
        (tmp_path / name / "later.py").write_text("value = 6\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def run(code: str, **options) -> ToolResult:
    return asyncio.run(PythonInterpreter(**{"timeout_seconds": PATIENCE, **options}).run(code))


def test_only_what_a_program_behind_the_walls_can_import_counts_as_there(packages):
    names = [*PACKAGES, "absent", "sound.later", "json"]
    plan = dataclasses.replace(make_plan(ProgramLimits(5, 5, 512, 16), "auto", names), libraries=[])
    before = descendants()
    errors = libraries.import_errors(plan, names)
    assert {name for name, error in errors.items() if not error} == {"sound", "threaded", "sound.later", "json"}
    assert errors["absent"] == "ModuleNotFoundError: No module named 'absent'"
    assert errors["raises"] == "RuntimeError: no licence"
    assert "MemoryError" in errors["greedy"]
    assert errors["crashes"] == "the import ended with code -11"
    assert "arpo_no_such_module_inside" in errors["sound_inside"]
    assert not (packages / "writes" / "__init__.py.new").exists()
    assert descendants() == before


def test_the_description_names_the_usual_libraries_that_are_there_and_no_other():
    python = PythonInterpreter(timeout_seconds=PATIENCE)
    named = python.known_libraries()
    assert set(named) <= set(libraries.USUAL)
    assert named[:2] == ["numpy", "sympy"]
    code = "import importlib\nfor name in {}:\n    try:\n        importlib.import_module(name)\n        print(name)\n"
    code += "    except Exception:\n        pass"
    assert asyncio.run(python.run(code.format(libraries.USUAL))).text.split() == named
    assert python.description.endswith(f"Beside the standard library it can import: {', '.join(named)}.")


def test_the_models_schema_has_the_description():
    pytest.importorskip("verl")
    from arpo_verl.integration.rollout.tools import PythonTool

    tool = PythonTool({"type": "native", "libraries": ["sympy"]})
    said = tool.tool_schema.function.description
    assert said.endswith("Beside the standard library it can import: sympy.")


def test_a_list_is_promised_imported_beforehand_and_all_else_is_left_out(packages):
    python = open_python(timeout_seconds=PATIENCE, libraries=["sound", "sympy"])
    assert python.description.endswith("it can import: sound, sympy.")
    code = "import sys\n[name in sys.modules for name in ('sound', 'sympy', 'numpy')]"
    assert asyncio.run(python.run(code)).text == "[True, True, False]"
    assert asyncio.run(python.run("import sound.later\nsound.value * sound.later.value")).text == "252"


def test_an_empty_list_promises_the_standard_library():
    python = PythonInterpreter(timeout_seconds=PATIENCE, libraries=[])
    assert python.description.endswith("It can import the standard library.")
    assert asyncio.run(python.start()).preloaded == []


@pytest.mark.parametrize("name", ["absent", "raises", "connects", "crashes", "sound.absent"])
def test_a_list_with_what_cannot_be_imported_is_refused_by_name_with_the_reason(packages, name):
    with pytest.raises(ValueError, match=rf"libraries has '{name}', which programs can't import here \(.+\); expected"):
        PythonInterpreter(libraries=["sound", name])


@pytest.mark.parametrize("name", ["a b", "", "1a", "numpy; import os", ".numpy", "scikit-learn", 5, None])
def test_a_list_with_what_is_no_import_name_is_refused(name):
    with pytest.raises(ValueError, match="expected import names, such as numpy"):
        PythonInterpreter(libraries=[name])


def test_a_library_that_starts_threads_is_there_and_not_imported_before_a_fork(packages):
    python = PythonInterpreter(timeout_seconds=PATIENCE, libraries=["threaded", "sound"])
    report = asyncio.run(python.start())
    assert report.preloaded == ["sound"]
    assert asyncio.run(python.run("import os, threaded\nos.write(1, b'%d' % threaded.value)\nos._exit(0)")).text == "7"


def test_a_library_that_writes_at_home_when_it_is_imported_leaves_nothing(packages, monkeypatch, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(home))
    # In a program there is no home: it is imported beforehand or not at all.
    monkeypatch.setattr(PythonInterpreter, "_check_libraries", lambda self: None)
    code = "import homely\nhomely.place.exists()"
    assert run(code, libraries=["homely"]) == ToolResult("False", ToolStatus.OK)
    assert list(home.iterdir()) == []


def test_matplotlib_draws_where_it_is_listed():
    pytest.importorskip("matplotlib")
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.savefig('figure.png')\nimport os\nos.listdir()"
    result = run(code, libraries=["matplotlib.pyplot"], scratch_mb=8)
    if "scratch_mb" in result.text:
        pytest.skip("this machine allows no scratch directory")
    assert result == ToolResult("['figure.png']", ToolStatus.OK)


NOTE = "Beside the standard library it can import: sound."


@pytest.mark.parametrize(
    ("code", "is_told"),
    [
        ("import scikit_learn_is_not_here", True),
        ("from absent.part import thing", True),
        ("import absent.part as part", True),
        ("def f():\n    import absent\nf()", True),
        ("try:\n    import absent\nexcept ImportError as error:\n    raise ValueError from error", False),
        ("import importlib\nimportlib.import_module('absent')", True),
        ("__import__('absent')", True),
        ("import raises", True),
        ("import sound_inside", True),
        ("import writes", True),
        ("raise ImportError('by hand')", True),
        ("from sound import nothing", False),
        ("import sound.absent", False),
        ("import json.absent", False),
        ("1 / 0", False),
        ("import sound\nsound.nothing", False),
        ("import sys\nsys.exit(1)", False),
        ("print(undefined)", False),
        ("try:\n    import absent\nexcept ImportError:\n    print('none')", False),
        ("import threading\nt = threading.Thread(target=lambda: __import__('absent'))\nt.start()\nt.join()", False),
    ],
)
def test_the_error_of_a_failing_import_names_the_libraries_there_are(packages, code, is_told):
    assert (NOTE in run(code, libraries=["sound"]).text) is is_told


def test_without_a_list_a_failing_import_names_the_usual_ones_that_are_there():
    python = PythonInterpreter(timeout_seconds=PATIENCE)
    result = asyncio.run(python.run("import absent"))
    assert result.status is ToolStatus.MODEL_ERROR
    first, last = result.text.splitlines()[-2:]
    assert first == "ModuleNotFoundError: No module named 'absent'"
    assert last == f"Beside the standard library it can import: {', '.join(python.known_libraries())}."


def test_calls_whose_imports_fail_at_the_same_time_look_for_libraries_once(monkeypatch):
    started = []
    start = libraries.start_helper
    monkeypatch.setattr(libraries, "start_helper", lambda *arguments: started.append(1) or start(*arguments))
    python = PythonInterpreter(timeout_seconds=PATIENCE, memory_mb=1000)  # as no other test has it

    async def calls() -> list[ToolResult]:
        return await asyncio.gather(*(python.run("import absent") for _ in range(8)))

    assert {"Beside the standard library" in result.text for result in asyncio.run(calls())} == {True}
    assert len(started) == 1


def test_where_no_helper_can_be_asked_the_error_stands_alone(monkeypatch):
    def fail(*arguments):
        raise OSError("no more processes")

    python = PythonInterpreter(timeout_seconds=PATIENCE, memory_mb=1001)

    async def call() -> ToolResult:
        await python.start()
        monkeypatch.setattr(libraries, "start_helper", fail)
        return await python.run("import absent")

    result = asyncio.run(call())
    assert result.text.endswith("ModuleNotFoundError: No module named 'absent'")
    assert result.status is ToolStatus.MODEL_ERROR


def test_no_descriptor_is_left_open_by_a_look_for_libraries():
    plan = make_plan(ProgramLimits(5, 5, 512, 16), "auto", [])
    before = len(os.listdir("/proc/self/fd"))
    libraries.import_errors(plan, ["json", "absent"])
    assert len(os.listdir("/proc/self/fd")) == before
