"""Parts that are found by name or by dotted path, and what is said of those that are not."""

import sys

import pytest

from arpo_tools.dotted_path import is_dotted
from arpo_verl.named_parts import NamedParts, parameters_of, require_accepted

PARTS = NamedParts("advantages", "advantage")
OWN = "number = 5\ndef mine(batch, *, weight=1.0): return batch\nclass Broken:\n    __signature__ = 1\n"


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    (tmp_path / "arpo_own_advantage.py").write_text(OWN)
    (tmp_path / "arpo_own_broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("arpo_own_advantage", None)


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        ("a.b", True), ("a.b.c", True), ("a:b", True), ("a.b:c", True), ("_a._b:_c", True),
        ("a", False), ("", False), (".", False), (":", False), ("a.", False), (".a", False), ("a:", False),
        (":a", False), ("a:b.c", False), ("a:b:c", False), ("a..b", False), ("a b.c", False), ("a-b.c", False),
        ("a.b.1", False), ("a/b.py", False), ("a.b:c ", False),
    ],
)  # fmt: skip
def test_a_dotted_path_has_a_module_and_a_name_in_it(path, is_one):
    assert is_dotted(path) == is_one


def test_the_names_are_those_of_the_files():
    assert PARTS.names == ("hard", "soft", "term_sum")
    assert [PARTS.find(name, "key").__name__ for name in PARTS.names] == ["hard", "soft", "term_sum"]


@pytest.mark.parametrize("path", ["arpo_own_advantage.mine", "arpo_own_advantage:mine"])
def test_somebodys_own_is_found_by_either_spelling(path):
    assert PARTS.find(path, "arpo.advantage")("x") == "x"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((name, f"key={name!r}; expected one of hard, soft, term_sum, or the dotted path of a function") for name in (
            "Soft", "sfot", "", "tree", "__init__", "soft ", "soft.", "my advantage", "a:b:c", "../soft",
        )),
        ("arpo_own_advantage.number", "is 5; expected a function: correct the path"),
        ("arpo_own_advantage.missing", "has no 'missing'; expected one of its names, number, mine, Broken"),
        ("arpo_own_broken.mine", r"can't be imported \(ZeroDivisionError"),
        ("arpo_no_such_module:mine", r"can't be imported \(ModuleNotFoundError"),
    ],
)  # fmt: skip
def test_what_is_no_part_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        PARTS.find(name, "key")


def test_settings_that_a_function_does_not_take_are_refused():
    known = parameters_of(PARTS.find("arpo_own_advantage.mine", "key"), "key")
    require_accepted({"weight": 2}, known, {"batch"}, "arpo.advantage_kwargs")
    for name in ("wieght", "batch"):
        with pytest.raises(ValueError, match=rf"arpo.advantage_kwargs.{name} is not a known setting; .* \['weight'\]"):
            require_accepted({name: 2}, known, {"batch"}, "arpo.advantage_kwargs")
    anything = parameters_of(lambda batch, **settings: batch, "key")
    require_accepted({"wieght": 2}, anything, {"batch"}, "key")


def test_a_callable_without_readable_parameters_is_refused():
    with pytest.raises(ValueError, match=r"the parameters of .* can't be told"):
        parameters_of(PARTS.find("arpo_own_advantage.Broken", "key"), "key")
