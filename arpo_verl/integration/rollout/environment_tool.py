"""An environment as a tool of a rollout: each call is an action, each result an observation, each leaf an episode."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4

from verl.tools.base_tool import BaseTool
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse

from arpo_tools import ToolStatus
from arpo_tools.environment import Episode, open_world
from arpo_verl.integration.rollout.tools import _options, _schema
from arpo_verl.rollout.tool_threads import run_in_thread


class EnvironmentTool(BaseTool):
    """`arpo_tools.environment.open_world`; the keys under `config` are its arguments, but for those of this class.

    An episode begins with a leaf's first call, is copied where the leaf forks, and closed when the leaf has ended.
    `tools_kwargs.<name>.create_kwargs` of a dataset row has the `seed` of its episodes and further arguments of the
    environment. Every method of the environment runs in a thread that can be left behind.
    """

    blocks_nothing = True

    def __init__(self, config: dict[str, Any], tool_schema: OpenAIFunctionToolSchema | None = None) -> None:
        """
        Args:
            config: `name` is the tool's, `description` what a native call format says of it, `look` the word that
                shows the present observation again without a step (`look`; null for none), `show_start` whether the
                first result begins with what was seen at the start (true).
            tool_schema: verl's; None makes one.
        """
        options = _options(config)
        self.config = dict(config)
        self.name = str(options.pop("name", "act"))
        description = options.pop("description", None)
        self._look: str | None = options.pop("look", "look")
        self._shows_start = bool(options.pop("show_start", True))
        self._world = open_world(**options)
        self.tool_schema = tool_schema or _schema(
            self.name, description or self._described(), "action", "What to do next."
        )
        self._lock = threading.Lock()
        self._episodes: dict[str, Episode] = {}
        self._given_up: set[str] = set()
        """Episodes that nobody waits for any more, while they begin."""

    def _described(self) -> str:
        episode = self._world.begin()
        described = getattr(episode._environment, "description", None) or "Acts, and shows what is seen then."
        episode.close()
        return str(described)

    async def create(self, instance_id: str | None = None, **kwargs: Any) -> tuple[str, ToolResponse]:
        # A table of rows has null where another row has an argument.
        given = kwargs.get("create_kwargs") or {}
        options = {name: value for name, value in given.items() if value is not None}
        return await self._add(instance_id or uuid4().hex, partial(self._world.begin, **options)), ToolResponse()

    async def fork(self, instance_id: str) -> str:
        """Return the id of a copy of an episode.

        Raises:
            arpo_tools.environment.CannotBranchError: it can't be copied.
        """
        return await self._add(uuid4().hex, self._episodes[instance_id].fork)

    async def _add(self, instance_id: str, begin: Callable[[], Episode]) -> str:
        def run() -> None:
            episode = None
            try:
                episode = begin()
            finally:
                with self._lock:
                    is_late = instance_id in self._given_up
                    self._given_up.discard(instance_id)
                    if episode is not None and not is_late:
                        self._episodes[instance_id] = episode
            if is_late:
                episode.close()

        try:
            await run_in_thread(self.name, run)
        except BaseException as error:
            with self._lock:
                episode = self._episodes.pop(instance_id, None)
                if episode is None and not isinstance(error, Exception):  # cancelled: it may begin yet
                    self._given_up.add(instance_id)
            if episode is not None:
                await run_in_thread(self.name, episode.close)
            raise
        return instance_id

    async def execute(
        self, instance_id: str, parameters: dict[str, Any], **kwargs: Any
    ) -> tuple[ToolResponse, float, dict[str, Any]]:
        episode, action = self._episodes[instance_id], str(parameters["action"])
        if self._look is not None and action.strip().lower() == self._look:
            return ToolResponse(text=episode.now.text), 0.0, {}
        observation = await run_in_thread(self.name, partial(episode.act, action))
        parts = [observation.text]
        if self._shows_start and len(episode.actions) == 1:
            parts = [f"At the start:\n{episode.observations[0].text}\n\nNow:", *parts]
        if observation.reward:
            parts.append(f"Reward: {observation.reward:g}")
        if observation.is_over:
            parts.append(f"The episode is over. Total reward: {episode.total_reward:g}")
        return ToolResponse(text="\n".join(parts)), observation.reward, {"status": ToolStatus.OK.value}

    async def release(self, instance_id: str, **kwargs: Any) -> None:
        with self._lock:
            episode = self._episodes.pop(instance_id, None)
        if episode is not None:
            await run_in_thread(self.name, episode.close)
