"""The tool lists that are shipped: every option in them is one that its tool takes, and no key is in them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from arpo_tools import PythonInterpreter, open_search

TOOLS = Path(__file__).parents[2] / "tools"


def options(file: str, class_name: str) -> dict[str, Any]:
    [found] = [
        tool["config"]
        for tool in yaml.safe_load((TOOLS / file).read_text())["tools"]
        if tool["class_name"] == f"arpo_verl.integration.rollout.tools.{class_name}"
    ]
    return {key: value for key, value in found.items() if key != "type"}


@pytest.mark.parametrize("file", ["tools.yaml", "web_tools.yaml"])
def test_the_interpreters_options_are_its_own(file):
    PythonInterpreter(**options(file, "PythonTool"))


def test_the_presets_search_opens_with_a_corpus(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"contents": "x"}\n')
    given = options("tools.yaml", "SearchTool")
    assert given["corpus"] == "${oc.env:ARPO_SEARCH_CORPUS}"
    assert open_search(**{**given, "corpus": corpus}).backend.name == "local"


def test_the_web_list_opens_with_a_key_and_an_output_folder(tmp_path, monkeypatch):
    pytest.importorskip("resiliparse", reason="the extra `web` is not installed")
    from arpo_tools.page_browser import PageBrowser

    monkeypatch.setenv("SERPER_API_KEY", "k3y")
    monkeypatch.setenv("ARPO_TOOLS_CACHE", str(tmp_path))
    given = options("web_tools.yaml", "SearchTool")
    limits = given["limits_file"].replace("${oc.env:ARPO_OUTPUT}", str(tmp_path))
    assert open_search(**{**given, "limits_file": limits}).backend.name == "serper"
    assert (tmp_path / "search_limits.sqlite").is_file()
    PageBrowser(**options("web_tools.yaml", "BrowserTool"))
