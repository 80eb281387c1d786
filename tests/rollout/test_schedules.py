"""The two schedules, the rules and timings of branching, parallel calls, tools with a state, and limits in flight."""

import asyncio
import random
from dataclasses import replace

import pytest
from fakes import END, Collector, ScriptedEngine, ScriptedTools, continued, ids, syntax, text
from hypothesis import given, settings
from hypothesis import strategies as st

from arpo_verl.config import ArpoConfig
from arpo_verl.rollout.leaf_record import LeafRecord
from arpo_verl.rollout.metrics import tree_metrics
from arpo_verl.rollout.protocols import Generation, RenderedResults, ToolAnswer, ToolCall, Turn
from arpo_verl.rollout.scheduler import PromptRollout
from arpo_verl.rollout.tag_syntax import TagSyntax
from arpo_verl.rollout.tree import Leaf, StopReason
from arpo_verl.rollout.turns import RolloutServices, RolloutSettings
from arpo_verl.rules import build_rule

CALL = "<python>1+1</python>"
RESULT = " <result>\n2\n</result>"
ALWAYS = ArpoConfig(base_probability=1.0, entropy_weight=0.0, probe_tokens=3)
SIZES = RolloutSettings(ids("Q:"), leaves=8, max_response_tokens=1000, vocabulary_size=100, seed="s")


def two_calls(context: str) -> str:
    """Call a tool twice, then answer."""
    return continued(context, CALL, CALL, f"so 2{END}")


def grow(config: ArpoConfig, sizes: RolloutSettings = SIZES, roots: int | None = None, **world) -> list[Leaf]:
    """Run one rollout and return its leaves, in order of their numbers."""
    collector = Collector()
    config = replace(config, initial_rollouts=roots or config.initial_rollouts)
    services = RolloutServices(
        world.pop("engine", None) or ScriptedEngine(two_calls),
        world.pop("tools", None) or ScriptedTools(lambda call: "2"),
        world.pop("syntax", None) or syntax(),
        collector,
        **world,
    )
    asyncio.run(PromptRollout(sizes, config, build_rule(config), services).run())
    return sorted(collector.leaves, key=lambda leaf: leaf.number)


def picture(leaves: list[Leaf]) -> list[tuple]:
    """All of a tree but the latencies of its tools."""
    return [
        (leaf.number, leaf.parent, leaf.path, leaf.token_ids, leaf.segment_ids, leaf.decisions, leaf.stop_reason)
        for leaf in leaves
    ]


class SeededEngine(ScriptedEngine):
    """Writes what the request's seed says."""

    async def generate(self, request):
        chance = random.Random(request.seed)
        turns = [CALL, CALL, "<search>a b</search>", f"words{END}", "</python>", "w" * 30]
        self.write = lambda context: chance.choice(turns)
        self.logprob = -chance.random()
        write, logprob = self.write, self.logprob
        await asyncio.sleep(0)
        answer = await ScriptedEngine(write, logprob, self.delays).generate(request)
        self.requests.append(request)
        return answer


@given(st.integers(0, 2**32), st.integers(1, 12), st.sampled_from(["bernoulli", "threshold", "reference"]))
@settings(max_examples=60, deadline=None)
def test_the_same_seed_gives_the_same_tree_in_lockstep_whatever_the_order_of_arrival(seed, leaves, rule):
    config = ArpoConfig(probe_tokens=3, schedule="lockstep", rule=rule, branch_factor=3, max_tool_calls=3)
    sizes = replace(SIZES, leaves=leaves, seed=str(seed))

    def tree(delays: int) -> list[tuple]:
        chance = random.Random(delays)
        engine, tools = SeededEngine(None, delays=chance), ScriptedTools(lambda call: "2", delays=chance)
        return picture(grow(config, sizes, engine=engine, tools=tools))

    assert tree(1) == tree(2)


def test_requests_have_seeds_of_their_own_in_lockstep_and_none_otherwise():
    engine = ScriptedEngine(two_calls)
    grow(replace(ALWAYS, schedule="lockstep"), engine=engine)
    seeds = [request.seed for request in engine.requests]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    engine = ScriptedEngine(two_calls)
    grow(ALWAYS, engine=engine)
    assert {request.seed for request in engine.requests} == {None}


def test_both_schedules_grow_the_same_tree_where_nothing_is_left_to_chance():
    # Four roots, each forks once after its first result: the budget is spent.
    for schedule in ("async", "lockstep"):
        leaves = grow(replace(ALWAYS, schedule=schedule))
        assert [leaf.parent for leaf in leaves] == [None] * 4 + [0, 1, 2, 3]
        assert {text(leaf.token_ids) for leaf in leaves} == {(CALL + RESULT) * 2 + f"so 2{END}"}


def test_a_segment_decides_with_a_single_request_a_turn():
    engine = ScriptedEngine(two_calls)
    leaves = grow(replace(ALWAYS, branch_timing="segment"), replace(SIZES, leaves=2), roots=1, engine=engine)
    # Parent and fork share the first turn; the fork starts at the end of the first result: three turns and two.
    assert len(engine.requests) == 5
    assert leaves[1].fork_token == len(CALL + RESULT)
    assert [text(leaf.token_ids) for leaf in leaves] == [(CALL + RESULT) * 2 + f"so 2{END}"] * 2


def test_all_initial_rollouts_are_asked_for_whole_turns_and_no_entropies():
    engine = ScriptedEngine(two_calls)
    leaves = grow(ArpoConfig(), replace(SIZES, leaves=8), roots=8, engine=engine)
    assert {request.entropy_tokens for request in engine.requests} == {0}
    assert len(engine.requests) == 8 * 3
    assert not any(leaf.decisions for leaf in leaves)


@pytest.mark.parametrize("rule", ["bernoulli", "reference"])
def test_a_single_leaf_is_a_tree_of_its_own(rule):
    (leaf,) = grow(ArpoConfig(rule=rule), replace(SIZES, leaves=1))
    assert leaf.stop_reason is StopReason.COMPLETED


def test_one_root_and_certain_forks_make_three_leaves_of_two_decisions_and_the_rest_are_top_ups():
    leaves = grow(replace(ALWAYS, max_tool_calls=2), replace(SIZES, leaves=6), roots=1)
    # A root that decides twice can bring 2**2 - 1 = 3 forks; the other two leaves start at once and may fork too.
    assert len(leaves) == 6
    assert sum(leaf.is_top_up for leaf in leaves) == 2


class Rising(ScriptedEngine):
    """Entropy 1 for a first turn, 2 for a second, 3 for a third."""

    async def generate(self, request):
        self.logprob = -1.0 - text(request.token_ids).count("</result>")
        return await super().generate(request)


def test_the_reference_rule_lags_a_step_and_a_fork_has_an_initial_entropy_of_its_own():
    config = ArpoConfig(rule="reference", probe_tokens=3, base_probability=1.0, entropy_weight=0.0)
    leaves = grow(config, replace(SIZES, leaves=3), roots=1, engine=Rising(two_calls))
    root, first_fork, second_fork = leaves
    # The root's first decision is about its first step against itself; the second about the second step, a token's
    # entropy of 2 against 1 at three positions, over ln 100.
    assert [decision.entropy_change for decision in root.decisions] == [0.0, pytest.approx(3 / 4.60517, rel=1e-5)]
    assert [first_fork.parent, second_fork.parent] == [0, 0]
    # A fork measures its own beginning, which follows a result.
    for fork, entropy in ((first_fork, 2.0), (second_fork, 3.0)):
        assert fork.turn_entropies[fork.inherited_turn_entropies] == [entropy] * 3


def test_the_reference_rule_asks_for_no_probe():
    engine = ScriptedEngine(two_calls)
    grow(
        ArpoConfig(rule="reference", probe_tokens=3, base_probability=1.0),
        replace(SIZES, leaves=2),
        roots=1,
        engine=engine,
    )
    assert {request.entropy_tokens for request in engine.requests} == {3}
    assert all(request.max_tokens > 900 for request in engine.requests)


def test_entropies_that_a_server_measures_are_used_and_surprisals_are_not():
    class Measuring(ScriptedEngine):
        async def generate(self, request):
            after = RESULT in text(request.token_ids)
            generation = await super().generate(request)
            count = min(request.entropy_tokens, len(generation.token_ids))
            return replace(generation, entropies=[4.0 if after else 0.5] * count)

    leaves = grow(
        replace(ALWAYS, entropy_source="topk"), replace(SIZES, leaves=2), roots=1, engine=Measuring(two_calls)
    )
    assert leaves[0].turn_entropies[0] == [0.5] * 3
    assert leaves[0].decisions[0].entropy == 4.0


def test_a_server_without_entropies_is_named_with_the_way_out():
    class Silent(ScriptedEngine):
        async def generate(self, request):
            return replace(await super().generate(request), entropies=None)

    with pytest.raises(RuntimeError, match=r"expected 3 of them: set arpo\.entropy_source=surprisal"):
        grow(ALWAYS, engine=Silent(two_calls))
    assert len(grow(replace(ALWAYS, entropy_source="surprisal"), engine=Silent(two_calls))) == 8


def test_a_turn_shorter_than_k_tokens_decides_by_what_there_is():
    leaves = grow(replace(ALWAYS, probe_tokens=50), replace(SIZES, leaves=2), roots=1)
    assert len(leaves[0].turn_entropies[0]) == len(CALL)
    assert leaves[0].decisions[0].forks == 1


class Lines(TagSyntax):
    """Every line of a turn that begins with ! is a call; results follow in brackets."""

    async def read_turn(self, token_ids):
        turn = text(token_ids)
        calls = [ToolCall("python", line[1:]) for line in turn.split("\n") if line.startswith("!")]
        return Turn(calls, len(token_ids), {"role": "assistant", "content": turn})

    async def is_over(self, token_ids):
        return self.ends_answer(token_ids[-1])

    async def render_results(self, context, messages, answers):
        assert text(context).endswith(messages[-1]["content"])
        results = [{"role": "tool", "content": answer.text} for answer in answers]
        return RenderedResults(ids("".join(f"[{answer.text}]" for answer in answers)), results, removed=1)


def lines() -> Lines:
    plain = syntax()
    return Lines(plain.tags, plain.decode, plain.encode, plain.end_token_ids)


def parallel(context: str) -> str:
    return f"done{END}" if "]" in context else f"!a\n!b\n!c\n{END}"


def test_parallel_calls_run_at_the_same_time_and_their_results_come_in_order():
    running, most = 0, 0

    class Overlapping(ScriptedTools):
        async def execute(self, call, state, messages):
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01 if call.arguments == "a" else 0)
            running -= 1
            return ToolAnswer(call.arguments.upper(), "ok")

    sizes = replace(SIZES, leaves=1, max_parallel_calls=2)
    (leaf,) = grow(ArpoConfig(), sizes, engine=ScriptedEngine(parallel), tools=Overlapping(None), syntax=lines())
    # Two of the three calls are executed; the template replaces the turn's end token.
    assert text(leaf.token_ids) == f"!a\n!b\n!c\n[A][B]done{END}"
    assert most == 2
    assert (leaf.tool_calls, leaf.tool_turns) == (2, 1)
    assert leaf.response_mask == [1] * 9 + [0] * 6 + [1] * 5
    assert [message["content"] for message in leaf.messages] == [f"!a\n!b\n!c\n{END}", "A", "B", f"done{END}"]
    record = LeafRecord.from_leaf(leaf, 1)
    assert tree_metrics({"prompt": [record]})["tools/python/calls"] == 2


def test_the_last_allowed_calls_are_executed_and_the_others_are_not():
    tools = ScriptedTools(lambda call: call.arguments)
    sizes = replace(SIZES, leaves=1, max_parallel_calls=8)
    (leaf,) = grow(ArpoConfig(max_tool_calls=2), sizes, engine=ScriptedEngine(parallel), tools=tools, syntax=lines())
    assert [call.arguments for call in tools.calls] == ["a", "b"]
    assert leaf.stop_reason is StopReason.COMPLETED


@pytest.mark.parametrize(
    ("turns", "reason", "executed"), [(0, "tool_limit", 0), (1, "tool_limit", 1), (2, "completed", 2)]
)
def test_a_limit_on_turns_ends_the_leaf_that_asks_for_one_more(turns, reason, executed):
    (leaf,) = grow(ArpoConfig(), replace(SIZES, leaves=1, max_tool_turns=turns))
    assert (leaf.stop_reason.value, leaf.tool_calls) == (reason, executed)


def test_a_call_without_room_for_its_result_is_not_executed():
    tools = ScriptedTools(lambda call: "2")
    sizes = replace(SIZES, leaves=1, max_response_tokens=len(CALL))
    (leaf,) = grow(ArpoConfig(), sizes, tools=tools)
    assert (tools.calls, leaf.stop_reason) == ([], StopReason.LENGTH)


def test_a_prompt_at_the_length_limit_still_gives_all_leaves():
    leaves = grow(ArpoConfig(), replace(SIZES, max_response_tokens=1))
    assert len(leaves) == 8
    assert {(text(leaf.token_ids), leaf.stop_reason) for leaf in leaves} == {("<", StopReason.LENGTH)}


def test_a_limit_that_the_engine_reports_ends_the_leaf_as_length():
    class AtContextLimit(ScriptedEngine):
        async def generate(self, request):
            return replace(await super().generate(request), is_at_limit=True)

    (leaf,) = grow(ArpoConfig(), replace(SIZES, leaves=1), engine=AtContextLimit(lambda context: "words"))
    assert leaf.stop_reason is StopReason.LENGTH


def test_a_tools_state_forks_with_its_leaf():
    seen = []

    class Remembering(ScriptedTools):
        async def execute(self, call, state, messages):
            state.setdefault("calls", []).append(len(seen))
            seen.append(list(state["calls"]))
            return ToolAnswer("2", "ok")

    parent, fork = grow(ALWAYS, replace(SIZES, leaves=2), roots=1, tools=Remembering(None))
    assert parent.tool_state["calls"][0] == fork.tool_state["calls"][0] == 0
    assert parent.tool_state["calls"][1] != fork.tool_state["calls"][1]
    assert len(parent.tool_state["calls"]) == len(fork.tool_state["calls"]) == 2


def test_a_leaf_does_not_fork_after_a_tool_whose_state_cannot_be_copied():
    class Bound(ScriptedTools):
        def can_fork(self, name: str) -> bool:
            return False

    engine = ScriptedEngine(two_calls)
    leaves = grow(ALWAYS, engine=engine, tools=Bound(lambda call: "2"))
    assert len(leaves) == 8
    assert all(leaf.parent is None for leaf in leaves)
    # Nothing is probed in vain: only the first tokens of the four roots and the four top-ups.
    assert sum(request.max_tokens == 3 for request in engine.requests) == 8


@pytest.mark.parametrize("schedule", ["async", "lockstep"])
def test_no_more_requests_and_calls_are_in_flight_than_allowed(schedule):
    flying, most = {"requests": 0, "calls": 0}, {"requests": 0, "calls": 0}

    async def fly(kind: str) -> None:
        flying[kind] += 1
        most[kind] = max(most[kind], flying[kind])
        await asyncio.sleep(0.001)
        flying[kind] -= 1

    class Engine(ScriptedEngine):
        async def generate(self, request):
            await fly("requests")
            return await super().generate(request)

    class Tools(ScriptedTools):
        async def execute(self, call, state, messages):
            await fly("calls")
            return await super().execute(call, state, messages)

    async def run() -> int:
        collector = Collector()
        slots = {"request_slot": asyncio.Semaphore(3), "call_slot": asyncio.Semaphore(2)}
        world = RolloutServices(Engine(two_calls), Tools(lambda call: "2"), syntax(), collector, **slots)
        config = replace(ALWAYS, schedule=schedule)
        await PromptRollout(SIZES, config, build_rule(config), world).run()
        return len(collector.leaves)

    assert asyncio.run(run()) == 8
    assert most == {"requests": 3, "calls": 2}


@pytest.mark.parametrize(
    ("status", "write", "faults"),
    [
        ("ok", lambda context: f".{END}" if RESULT in context else CALL, set()),
        ("infrastructure_error", lambda context: f".{END}" if RESULT in context else CALL, {"infrastructure"}),
        ("ok", lambda context: "w" * 2000, {"truncated"}),
        ("ok", lambda context: "", {"void"}),
    ],
)
def test_what_can_be_excluded_is_marked_and_no_leaf_is_lost(status, write, faults):
    class WithStatus(ScriptedTools):
        async def execute(self, call, state, messages):
            return ToolAnswer("2", status)

    leaves = grow(ArpoConfig(), engine=ScriptedEngine(write), tools=WithStatus(None))
    assert len(leaves) == 8
    assert all(leaf.faults == faults for leaf in leaves)
    assert all(
        LeafRecord.from_leaf(leaf, 8, exclude=["truncated", "infrastructure"]).is_excluded == bool(faults - {"void"})
        for leaf in leaves
    )


@pytest.mark.parametrize(("exclude", "has_forks"), [(("infrastructure",), False), ((), True)])
def test_nothing_forks_below_a_failed_call_that_would_exclude_the_fork(exclude, has_forks):
    class Broken(ScriptedTools):
        async def execute(self, call, state, messages):
            return ToolAnswer("Error", "infrastructure_error")

    engine = ScriptedEngine(lambda context: f".{END}" if RESULT in context else CALL)
    config = ArpoConfig(base_probability=1.0, infrastructure_retries=0, exclude=exclude)
    leaves = grow(config, engine=engine, tools=Broken(None))
    assert len(leaves) == 8
    assert any(leaf.parent is not None for leaf in leaves) == has_forks


def test_a_leaf_that_spans_two_weight_versions_is_marked():
    class Updated(ScriptedEngine):
        async def generate(self, request):
            version = text(request.token_ids).count("</result>") + 3
            return replace(await super().generate(request), weight_versions=(version, version))

    leaves = grow(ALWAYS, replace(SIZES, leaves=2), roots=1, engine=Updated(two_calls))
    assert [leaf.weight_versions for leaf in leaves] == [(3, 5), (3, 5)]
    records = [LeafRecord.from_leaf(leaf, 2) for leaf in leaves]
    assert tree_metrics({"prompt": records})["arpo/mixed_weights_fraction"] == 1.0


def test_cached_tokens_are_counted_against_all_that_were_asked_for():
    class Cached(ScriptedEngine):
        async def generate(self, request):
            generation = await super().generate(request)
            return Generation(**{**generation.__dict__, "cached_tokens": len(request.token_ids) // 2})

    (leaf,) = grow(ArpoConfig(), replace(SIZES, leaves=1), engine=Cached(two_calls))
    turn = len(CALL + RESULT)
    assert leaf.requested_tokens == 2 + (2 + turn) + (2 + 2 * turn)
    assert leaf.cached_tokens == 1 + (2 + turn) // 2 + (2 + 2 * turn) // 2


def test_tokens_that_branches_share_are_generated_once():
    leaves = grow(ALWAYS, replace(SIZES, leaves=2), roots=1)
    metrics = tree_metrics({"prompt": [LeafRecord.from_leaf(leaf, 2) for leaf in leaves]})
    # The first call once, then each its second call and its answer.
    assert metrics["arpo/generated_tokens"] == len(CALL) + 2 * len(CALL + f"so 2{END}")
    whole = len((CALL + RESULT) * 2 + f"so 2{END}")
    assert metrics["arpo/shared_token_fraction"] == pytest.approx(len(CALL + RESULT) / (2 * whole))
    assert metrics["tools/calls"] == 3
