"""Trees of calls of real tools without a model: a leaf's calls are drawn at random, its tools are verl's kind."""

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from fakes import END, Collector, ids, syntax, text
from verl.tools.base_tool import BaseTool
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse

from arpo_verl.config import ArpoConfig
from arpo_verl.integration.rollout.tools import ToolSettings, VerlTools
from arpo_verl.rollout.protocols import Generation, GenerationRequest
from arpo_verl.rollout.rule import BranchingRule
from arpo_verl.rollout.scheduler import PromptRollout
from arpo_verl.rollout.tree import Leaf
from arpo_verl.rollout.turns import RolloutServices, RolloutSettings
from arpo_verl.rules import build_rule

ALWAYS = ArpoConfig(
    initial_rollouts=1, base_probability=1.0, entropy_weight=0.0, probe_tokens=3, entropy_source="surprisal",
    infrastructure_retries=0,
)  # fmt: skip


def schema(name: str, parameter: str = "text") -> OpenAIFunctionToolSchema:
    parameters = {"type": "object", "properties": {parameter: {"type": "string"}}, "required": [parameter]}
    function = {"name": name, "description": name, "parameters": parameters}
    return OpenAIFunctionToolSchema.model_validate({"type": "function", "function": function})


class Wanderer:
    """An inference engine that makes one of some calls at random, `turns` times on a path, and then answers."""

    def __init__(self, calls: Sequence[str], turns: int = 3, seed: int = 0) -> None:
        self.calls, self.turns, self.random = calls, turns, random.Random(seed)
        self.before: Callable[[str], Awaitable[None]] | None = None
        """Awaited before each turn, with the text so far."""

    async def generate(self, request: GenerationRequest) -> Generation:
        context = text(request.token_ids)
        *results, begun = context.removeprefix("Q:").split("</result>")
        if self.before is not None:
            await self.before(context)
        choices = self.calls if len(results) < self.turns else [f"so{END}"]
        written = self.random.choice([one for one in choices if one.startswith(begun.strip("\n"))])
        written = written[len(begun.strip("\n")) :][: request.max_tokens]
        return Generation(ids(written), [-1.0] * len(written), weight_versions=(1, 1))


@dataclass
class Grown:
    """What a rollout has left behind."""

    leaves: list[Leaf]
    tools: VerlTools

    def results(self, number: int) -> list[str]:
        """Return the results of a leaf's calls, its prefix's included."""
        return [call.result for call in self.leaves[number].calls]

    def limits(self) -> Counter:
        """Return why there were no more forks, with numbers."""
        decided = [one.limit for leaf in self.leaves for one in leaf.decisions]
        return Counter(decided + [one.reason for leaf in self.leaves for one in leaf.refusals])


async def grow(
    tools: Sequence[BaseTool],
    engine: Wanderer,
    leaves: int = 4,
    *,
    config: ArpoConfig = ALWAYS,
    rule: BranchingRule | None = None,
    **settings: object,
) -> Grown:
    """Grow a tree by verl's tools, to its end or to its first failure, and close their states either way."""
    collector, one = Collector(), ToolSettings([], {}, 2000, "left", 5.0)
    verl_tools = VerlTools({tool.name: tool for tool in tools}, replace(one, **settings))
    sizes = RolloutSettings(ids("Q:"), leaves, 20_000, vocabulary_size=100, seed="s")
    form = syntax([tool.name for tool in tools])
    services = RolloutServices(engine, verl_tools, form, collector, states=verl_tools.states)
    try:
        await PromptRollout(sizes, config, rule or build_rule(config), services).run()
    finally:
        await verl_tools.states.close()
    return Grown(sorted(collector.leaves, key=lambda leaf: leaf.number), verl_tools)


def paths_of(grown: Grown) -> list[list[str]]:
    """Return what each leaf has asked for, call by call."""
    return [[str(call.arguments) for call in leaf.calls] for leaf in grown.leaves]


class SqliteGame(BaseTool):
    """A treasure hunt in a database file for each leaf: a step is written into it, all steps are read from it."""

    def __init__(self, folder: Path, name: str = "step") -> None:
        self.config, self.tool_schema, self.name = {}, schema(name), name
        self.folder = folder
        self.events: Counter = Counter()
        self.made: set[str] = set()

    def _file(self, instance_id: str) -> Path:
        return self.folder / f"{instance_id}.sqlite"

    def _open(self, instance_id: str) -> sqlite3.Connection:
        return sqlite3.connect(self._file(instance_id), isolation_level=None)

    async def create(self, instance_id: str | None = None, **kwargs: object) -> tuple[str, ToolResponse]:
        instance_id = instance_id or uuid4().hex
        self._open(instance_id).execute("CREATE TABLE steps (step TEXT)")
        self.events["create"] += 1
        self.made.add(instance_id)
        return instance_id, ToolResponse()

    async def execute(self, instance_id: str, parameters: dict, **kwargs: object) -> tuple[ToolResponse, float, dict]:
        game = self._open(instance_id)
        game.execute("INSERT INTO steps VALUES (?)", [parameters["text"]])
        await asyncio.sleep(0)
        steps = [step for (step,) in game.execute("SELECT step FROM steps ORDER BY rowid")]
        return ToolResponse(text=" ".join(steps)), 0.0, {}

    def fork(self, instance_id: str) -> str:
        copy = uuid4().hex
        with self._open(instance_id) as here, self._open(copy) as there:
            here.backup(there)
        self.events["fork"] += 1
        self.made.add(copy)
        return copy

    async def release(self, instance_id: str, **kwargs: object) -> None:
        self.events[f"release {instance_id}"] += 1
        self._file(instance_id).unlink()

    def is_released_once(self) -> bool:
        """Whether every instance there was has been released, each once, and has left no file."""
        released = {f"release {one}": 1 for one in self.made}
        return {name: self.events[name] for name in self.events if name.startswith("release")} == released and not list(
            self.folder.iterdir()
        )
