"""docs/replay.md: its lines pass the checks of a run, its table has every setting with its default."""

import inspect
import re
from pathlib import Path

import pytest
import verl  # noqa: F401  registers the resolver that the preset uses
from hydra import compose, initialize_config_module
from replay_examples import context

from arpo_verl.named_parts import REPLAY
from arpo_verl.preflight.checks import check_parts
from arpo_verl.replay import build_source

PAGE = (Path(__file__).parents[2] / "docs" / "replay.md").read_text()
LINES = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)[0].splitlines()


def test_every_source_has_a_line_that_passes_the_checks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("traces.parquet").write_bytes(b"")
    named = []
    for line in LINES:
        with initialize_config_module("arpo_verl.config", version_base=None):
            config = compose("arpo_trainer", overrides=["trainer.device=cpu", *line.split()])
        check_parts(config)
        named.append(config.arpo.replay)
    assert sorted(named) == list(REPLAY.names)


def rows() -> dict[str, dict[str, str]]:
    """Return the table of settings: setting, then source, then default."""
    table = re.search(r"\| setting \|.*?\n\n", PAGE, re.DOTALL)
    assert table is not None
    header, _, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table[0].strip().splitlines()
    ]
    return {line[0].strip("`"): dict(zip(header[1:-1], line[1:-1], strict=True)) for line in lines}


@pytest.mark.parametrize("name", REPLAY.names)
def test_the_table_has_each_setting_with_its_default(name):
    def shown(setting: str, default: object) -> str:
        if default is inspect.Parameter.empty or (setting == "success" and name != "self_imitation"):
            return "needed"
        return "null" if default is None else str(default)

    parameters = list(inspect.signature(REPLAY.shipped(name, "arpo.replay")).parameters.values())[1:]
    written = {setting: of_source[name] for setting, of_source in rows().items() if of_source[name]}
    assert written == {one.name: shown(one.name, one.default) for one in parameters}


@pytest.mark.parametrize("name", REPLAY.names)
def test_every_metric_of_a_source_is_on_the_page(name, tmp_path):
    (tmp_path / "traces.parquet").write_bytes(b"")
    more = {
        "teachers": {"file": str(tmp_path / "traces.parquet")},
        "peers": {"directory": str(tmp_path), "name": "one"},
    }
    source = build_source(name, {"success": 1.0} | more.get(name, {}), context())
    source.finish([], [0.5], 1)
    logged = source.metrics()
    assert {"stored", "tasks"} <= logged.keys()
    assert [metric for metric in logged if f"`replay/{metric}`" not in PAGE] == []


def test_every_metric_of_a_step_is_on_the_page():
    file = Path(__file__).parents[2] / "arpo_verl" / "integration" / "training" / "replay_step.py"
    logged = set(re.findall(r"\"replay/(\w+)\"", file.read_text()))
    assert {"used", "helped_fraction", "grown_reward", "age", "refused"} <= logged
    assert [metric for metric in logged if f"`replay/{metric}`" not in PAGE] == []
