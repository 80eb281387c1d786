"""verl's single-turn agent loop with a seed for each request, so that a run can be compared with another one.

verl 0.9.1 has no key for that: `rollout.full_determinism` gives all requests of its V1 trainer the same id, which
vLLM refuses.
"""

from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop


class SeededSingleTurnAgentLoop(SingleTurnAgentLoop):
    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        seed = 1_000 * int(kwargs["index"]) + int(kwargs["session_id"])
        return await super().run(sampling_params | {"seed": seed}, **kwargs)
