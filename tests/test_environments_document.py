"""docs/environments.md and the tools of docs/tools.md, followed: their files are written, and trees grow with them."""

import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from branching_worlds import ALWAYS, Wanderer, grow, paths_of
from verl.tools.tool_registry import load_all_tools

from arpo_verl.integration.rollout.tools import ToolSettings, VerlTools
from arpo_verl.rollout.protocols import ToolCall

PAGES = [Path(__file__).parent.parent / "docs" / name for name in ("environments.md", "tools.md")]
TEXT = "".join(page.read_text() for page in PAGES)
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
FILES = {
    found[1]: content.removeprefix(found[0])
    for _, content in BLOCKS
    if (found := re.match(r"# ([\w.]+\.\w+)\n", content))
}
LOCKSTEP = replace(ALWAYS, schedule="lockstep")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    yield tmp_path
    for module in ("my_worlds", "my_game", "my_return"):
        sys.modules.pop(module, None)


def test_the_pages_files_are_all_known_here():
    assert set(FILES) == {
        *("lake.yaml", "guess.yaml", "my_worlds.py", "my_return.py", "my_episode.py"),
        *("my_game.py", "my_game.yaml", "my_servers.yaml", "my_server.py"),
    }


async def test_a_tree_of_a_lake_branches_at_each_observation_and_its_leaves_are_rewarded():
    moves = [f"<lake>{move}</lake>" for move in ("down", "right")]
    grown = await grow(load_all_tools("lake.yaml", None), Wanderer(moves, turns=6, seed=2), 8, config=LOCKSTEP)
    assert len(grown.leaves) == 8
    assert sum(leaf.parent is not None for leaf in grown.leaves) == 7
    # By hand: of the ways that go down and right alone, these lead to the goal, and none is rewarded before it.
    goals = {"down down right right down right", "right right down down down right", "down down right down right right"}
    rewards = []
    for number, path in enumerate(paths_of(grown)):
        [first, *_, last] = grown.results(number)
        assert first.startswith("At the start:\n[S]FFF\nFHFH\nFFFH\nHFFG\n\nNow:\n")
        calls = [call.reward for call in grown.leaves[number].calls if call.reward is not None]
        rewards.append(runpy.run_path("my_return.py")["compute_score"]("", "", "", {"tool_rewards": calls}))
        assert rewards[-1] == float(" ".join(path) in goals)
        assert ("Total reward: 1" in last) == (rewards[-1] == 1)


async def test_the_first_result_is_that_of_the_page():
    [tool] = load_all_tools("lake.yaml", None)
    tools = VerlTools({"lake": tool}, ToolSettings([], {}, 2000, "left"))
    answer = await tools.execute(ToolCall("lake", {"action": "right"}), {}, [])
    assert f"```text\n{answer.text}\n```" in TEXT
    await tools.states.close()


async def test_a_world_of_ones_own_branches_too():
    calls = [f"<guess>{number}</guess>" for number in (10, 51, 90, "high")]
    grown = await grow(load_all_tools("guess.yaml", None), Wanderer(calls, turns=3, seed=2), 5, config=LOCKSTEP)
    assert sum(leaf.parent is not None for leaf in grown.leaves) == 4
    for number, path in enumerate(paths_of(grown)):
        left = 5
        for call, guess in zip(grown.leaves[number].calls, path, strict=True):
            left -= guess != "high"
            assert call.status == ("model_error" if guess == "high" else "ok")
            assert f"{left} guesses are left" in call.result or guess == "high"


async def test_the_game_in_a_database_forks_its_file_and_leaves_none():
    [rooms] = load_all_tools("my_game.yaml", None)
    calls = [f"<enter>{room}</enter>" for room in ("hall", "cellar", "attic")]
    grown = await grow([rooms], Wanderer(calls, turns=3, seed=2), 6, config=LOCKSTEP)
    assert sum(leaf.parent is not None for leaf in grown.leaves) == 5
    for number, path in enumerate(paths_of(grown)):
        assert grown.results(number)[-1] == f"You have been in: {', '.join(path)}"
    assert list(rooms.folder.iterdir()) == []


async def test_the_server_answers_and_its_leaves_share_a_session():
    [capital] = load_all_tools("my_servers.yaml", None)
    calls = [f"<capital>{country}</capital>" for country in ("France", "Peru", "Atlantis")]
    grown = await grow([capital], Wanderer(calls, turns=2, seed=2), 4, config=LOCKSTEP)
    assert sum(leaf.parent is not None for leaf in grown.leaves) == 3
    answers = {"France": ("Paris", "ok"), "Peru": ("Lima", "ok")}
    for leaf in grown.leaves:
        for call in leaf.calls:
            expected = answers.get(call.arguments, ("Error executing tool capital", "model_error"))
            assert (call.result, call.status) == expected
    capital._server.close()


def test_the_program_without_verl_prints_the_taxi():
    printed = subprocess.run([sys.executable, "my_episode.py"], capture_output=True, text=True, check=True).stdout
    assert printed.startswith("The taxi is at row ")
    assert printed.endswith("\n-10.0 -1.0\n")


@pytest.mark.slow
def test_the_doctor_makes_the_lake():
    [words] = [line for _, content in BLOCKS for line in content.splitlines() if line.startswith("arpo-verl doctor")]
    program = Path(sys.executable).with_name("arpo-verl")
    environment = {**os.environ, "VERL_PLATFORM": "cpu"}
    done = subprocess.run([program, *words.split()[1:]], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "made, not called: arpo_verl.integration.rollout.environment_tool.EnvironmentTool" in " ".join(
        done.stdout.split()
    )
