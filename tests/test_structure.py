"""How the packages are built: who imports whom, how long files and functions are, and where a part's name is known.

Files are read, not imported. An import inside a function or under `TYPE_CHECKING` counts like any other.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from arpo_verl.named_parts import ADVANTAGES, LOSSES, REPLAY, RULES, SERVERS

ROOT = Path(__file__).parent.parent
PACKAGES = {"arpo_verl": ROOT / "arpo_verl", "arpo_tools": ROOT / "tools", "arpo_patches": ROOT / "patches"}
LONGEST_FILE, LONGEST_FUNCTION = 400, 50

Graph = dict[str, set[str]]


def modules() -> dict[str, Path]:
    """Return the files of the three packages by the names that they are imported by."""
    found = {}
    for package, folder in PACKAGES.items():
        for file in folder.rglob("*.py"):
            parts = (package, *file.relative_to(folder).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def imports_of(node: ast.AST, user: str, is_package: bool) -> Iterator[str]:
    """Yield what an import statement names: for `from a import b` the module `a.b` if there is one, else `a`."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parts = user.split(".")
        above = parts[: len(parts) - node.level + is_package] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            name = f"{module}.{alias.name}"
            yield name if name in MODULES else module


def import_graph() -> Graph:
    """Return which module of the three packages imports which others."""
    graph = {}
    for name, file in MODULES.items():
        nodes = ast.walk(ast.parse(file.read_text()))
        found = {one for node in nodes for one in imports_of(node, name, file.name == "__init__.py")}
        graph[name] = {one for one in found if one in MODULES and one != name}
    return graph


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the groups of nodes each of which leads to every other one."""
    reached: Graph = {}
    for start in graph:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            if (node := waiting.pop()) not in seen:
                seen.add(node)
                waiting += graph.get(node, ())
        reached[start] = seen
    groups = {
        tuple(sorted({start, *(one for one in seen if start in reached.get(one, ()))}))
        for start, seen in reached.items()
    }
    return sorted([*group] for group in groups if len(group) > 1)


def siblings(graph: Graph) -> Graph:
    """Return which file or folder leads to which other one of the same package, for packages at any depth."""
    found: Graph = {}
    for user, used in graph.items():
        for one in used:
            ours, theirs = user.split("."), one.split(".")
            depth = next((at for at, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
            if depth is not None:
                found.setdefault(".".join(ours[: depth + 1]), set()).add(".".join(theirs[: depth + 1]))
    return found


def is_of_tools(group: list[str]) -> bool:
    return all(name.split(".")[0] == "arpo_tools" for name in group)


def test_no_files_and_no_packages_import_each_other():
    graph = import_graph()
    assert len(graph) > 250 and len(graph["arpo_verl.integration.training.trainer"]) > 10
    found = [*cycles(graph), *cycles(siblings(graph))]
    assert [group for group in found if not is_of_tools(group)] == []


def test_no_files_and_no_packages_of_the_tools_import_each_other():
    graph = import_graph()
    found = [*cycles(graph), *cycles(siblings(graph))]
    assert [group for group in found if is_of_tools(group)] == []


def test_a_cycle_of_files_or_of_packages_is_found():
    graph = {"p.a.one": {"p.b.two"}, "p.b.two": {"p.c"}, "p.b.three": {"p.a.four"}, "p.a.four": set(), "p.c": set()}
    assert cycles(graph) == []
    assert cycles(siblings(graph)) == [["p.a", "p.b"]]
    assert cycles({"x": {"y"}, "y": {"z"}, "z": {"x"}, "w": {"x"}}) == [["x", "y", "z"]]


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("import arpo_verl.config", ["arpo_verl.config"]),
        ("from arpo_verl import plugin, config", ["arpo_verl.plugin", "arpo_verl.config"]),
        ("from arpo_verl.plugin import register", ["arpo_verl.plugin"]),
        ("from . import plugin", ["arpo_verl.plugin"]),
        ("from .rollout.tree import Leaf", ["arpo_verl.rollout.tree"]),
        ("from verl import DataProto", ["verl"]),
    ],
)
def test_an_import_in_any_form_is_resolved(statement, named):
    [node] = ast.parse(statement).body
    assert list(imports_of(node, "arpo_verl.command_line", is_package=False)) == named


MEETS_VERL = (
    *("arpo_verl.integration.", "arpo_verl.losses.", "arpo_verl.export.merging", "arpo_verl.evaluation.run.verl_agent"),
    "arpo_verl.evaluation.run.completions_client",
    "arpo_patches.",
)
"""Beginnings of the modules that import verl, Ray or vLLM."""
MEETS_VERL_IN_A_FUNCTION = ("arpo_verl.preflight.", "arpo_verl.doctor.verl_checks")
"""Of those that do so where a check has to, so that they themselves are imported without."""
QUEUE = "arpo_verl.integration.queue"


def external_imports(source: str, packages: set[str], in_functions: bool) -> set[str]:
    """Return which packages a file imports, with or without what functions do."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(one) for function in functions for one in ast.walk(function)}
    nodes = [node for node in ast.walk(tree) if in_functions or id(node) not in inside]
    return {name.split(".")[0] for node in nodes for name in imports_of(node, "", is_package=False)} & packages


def test_verl_ray_and_vllm_are_imported_at_the_edge_alone():
    edge = {"verl", "ray", "vllm", "transfer_queue"}
    found = {}
    for name, file in MODULES.items():
        if not name.startswith(MEETS_VERL):
            has_leave = name.startswith(MEETS_VERL_IN_A_FUNCTION)
            found[name] = external_imports(file.read_text(), edge, in_functions=not has_leave)
    assert len(found) > 100
    assert {name: packages for name, packages in found.items() if packages} == {}


def test_one_file_meets_the_queue():
    found = [
        name
        for name, file in MODULES.items()
        if external_imports(file.read_text(), {"transfer_queue"}, in_functions=True)
    ]
    assert found == [QUEUE]


def test_the_search_for_imports_sees_functions_when_it_is_to():
    source = "import verl.utils\ndef f():\n    from ray import get\n"
    assert external_imports(source, {"verl", "ray"}, in_functions=True) == {"verl", "ray"}
    assert external_imports(source, {"verl", "ray"}, in_functions=False) == {"verl"}


def test_files_and_functions_are_short():
    too_long = []
    for folder in (*PACKAGES.values(), ROOT / "recipes", ROOT / "docs"):
        for file in folder.rglob("*.py"):
            source = file.read_text()
            if len(source.splitlines()) > LONGEST_FILE:
                too_long.append(str(file))
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines = (node.end_lineno or 0) - node.lineno + 1
                    too_long += [f"{file}: {node.name}"] if lines > LONGEST_FUNCTION else []
    assert too_long == []


FOLDERS = {
    "advantages": ADVANTAGES,
    "losses": LOSSES,
    "replay": REPLAY,
    "rules": RULES,
    "integration/serving": SERVERS,
}
"""Folders of `arpo_verl`, and the parts whose names are known there and nowhere else."""


HOMONYMS = {
    "top_k": {"evaluation/run/command.py", "evaluation/run/verl_agent.py", "integration/serving/vllm_replica.py"}
}
"""Names of parts that in these files mean something else: here the sampling parameter, and K of the entropies."""


def names_tested(source: str, names: set[str]) -> list[int]:
    """Return the lines that compare something with a name, match on it, or look it up."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if type(node) not in {ast.Compare, ast.MatchValue, ast.Subscript, ast.Dict, ast.Set}:
            continue
        is_annotation = isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "Literal"
        constants = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
        if any(isinstance(one, str) and one in names for one in constants) and not is_annotation:
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_outside_of_the_folder_tests_for_a_parts_name(folder):
    parts, root = FOLDERS[folder], PACKAGES["arpo_verl"]
    names = {*parts.names, *(f"arpo_{name}" for name in parts.names)}
    assert len(names) >= 2
    files = [file for file in root.rglob("*.py") if not str(file.relative_to(root)).startswith(f"{folder}/")]
    found = {}
    for file in files:
        path = str(file.relative_to(root))
        own = {name for name in names if path not in HOMONYMS.get(name, ())}
        if lines := names_tested(file.read_text(), own):
            found[path] = lines
    assert len(files) > 100
    assert found == {}


def test_the_search_finds_what_it_is_for():
    for line in (
        *('if mode == "hard": ...', 'x = name in ("soft", y)', 'table = {"soft": 1}', 'f = table["hard"]'),
        'match mode:\n    case "soft": ...',
    ):
        assert names_tested(line, {"soft", "hard"}) in ([1], [2])
    assert names_tested('def f(mode: Literal["soft", "hard"] = "soft"): ...', {"soft", "hard"}) == []
