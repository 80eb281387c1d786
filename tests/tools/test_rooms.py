"""The order of `tools/`: no import cycle between files or rooms, no large file or function, and one meaning a name."""

import ast
import importlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "tools"
MODULES = {
    ".".join(["arpo_tools", *file.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): file
    for file in ROOT.rglob("*.py")
}


def imports(module: str) -> Iterator[str]:
    """Yield the modules of ours that a module imports, wherever in it."""
    file = MODULES[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
            source = ".".join(filter(None, [above, node.module or ""]))
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                if inner in MODULES or source in MODULES:
                    yield inner if inner in MODULES else source


def room(module: str) -> str:
    """Return the folder of a module, or the module itself where it lies beside the folders."""
    parts = module.split(".")
    is_inside = len(parts) > 2 or (len(parts) == 2 and MODULES[module].name == "__init__.py")
    return ".".join(parts[:2]) if is_inside else module


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return what is left when whatever imports nothing that is left is taken away, again and again."""
    left = {name: set(others) for name, others in graph.items()}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


FILES = {module: {other for other in imports(module) if other != module} for module in MODULES}
ROOMS: dict[str, set[str]] = {room(module): set() for module in MODULES}
for importer, imported in FILES.items():
    ROOMS[room(importer)] |= {room(other) for other in imported} - {room(importer)}


@pytest.mark.parametrize("graph", [FILES, ROOMS], ids=["files", "rooms"])
def test_nothing_imports_what_imports_it(graph):
    assert cycle(graph) == []


def test_the_look_for_cycles_finds_them_and_sees_relative_imports():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
    assert "arpo_tools.sandbox.landlock" in FILES["arpo_tools.sandbox.isolation"]
    assert "arpo_tools.sandbox.plan" in FILES["arpo_tools.sandbox.zygote"]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_files_and_functions_are_small(module):
    text = MODULES[module].read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 50, node.name


def test_a_class_name_has_one_meaning():
    trees = [ast.parse(file.read_text()) for file in MODULES.values()]
    names = Counter(node.name.lstrip("_") for tree in trees for node in tree.body if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *[("arpo_tools", name) for name in ("LocalSearch", "PythonInterpreter", "open_python", "open_search")],
        *[("arpo_tools", name) for name in ("ArgumentError", "Tool", "ToolResult", "ToolStatus")],
        ("arpo_tools.tool", "ToolStatus"),
        ("arpo_tools.search", "Passage"),
        ("arpo_tools.search", "SearchError"),
        ("arpo_tools.page_browser", "PageBrowser"),
        ("arpo_tools.retrieval_server", "main"),
        ("arpo_tools.cache.__main__", "main"),
    ],
)
def test_what_users_name_has_kept_its_address(module, name):
    assert hasattr(importlib.import_module(module), name)
