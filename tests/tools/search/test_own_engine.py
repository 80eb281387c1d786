"""The default number of passages of a user's own search engine, by the attribute's name of today and the old one."""

import pytest

from arpo_tools import open_search

ENGINES = """
class Silent:
    async def search(self, query, top_k): return [str(number) for number in range(20)]
class Today(Silent):
    default_top_k = 2
class Before(Silent):
    usual_top_k = 3
class Both(Silent):
    default_top_k, usual_top_k = 4, 5
"""


@pytest.fixture(autouse=True)
def engines(tmp_path, monkeypatch):
    (tmp_path / "arpo_engines_of_mine.py").write_text(ENGINES)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(
    ("engine", "passages", "is_warned"),
    [("Silent", 10, False), ("Today", 2, False), ("Before", 3, True), ("Both", 4, False)],
)
async def test_the_default_number_of_passages_is_read_by_either_name(engine, passages, is_warned, caplog):
    tool = open_search(f"arpo_engines_of_mine.{engine}")
    assert len((await tool.run("anything")).text.splitlines()) == passages
    assert ("`usual_top_k` is now `default_top_k`: rename it" in caplog.text) == is_warned
