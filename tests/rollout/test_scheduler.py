"""The rollout of one prompt, on scripted engines: exactly n leaves, shared prefixes, budgets, top-ups."""

import asyncio
import random
from dataclasses import replace

import pytest
from fakes import END, Collector, ScriptedEngine, ScriptedTools, continued, ids, syntax, text
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_checks import check_tree

from arpo_verl.config import ArpoConfig
from arpo_verl.rollout.protocols import Generation
from arpo_verl.rollout.scheduler import PromptRollout
from arpo_verl.rollout.tag_syntax import Tags, TagSyntax
from arpo_verl.rollout.tree import StopReason
from arpo_verl.rollout.turns import RolloutServices, RolloutSettings
from arpo_verl.rules import build_rule

CALL = "<python>1+1</python>"
RESULT = " <result>\n2\n</result>"


def one_call(context: str) -> str:
    """Call a tool once, then answer."""
    return continued(context, CALL, f"so 2{END}")


def grow(  # noqa: PLR0913  a test names only what it varies
    config: ArpoConfig, write, *, leaves=8, roots=4, budget=1000, engine=None, tools=None, seed="s"
) -> Collector:
    """Run one rollout to its end and return its leaves."""
    collector = Collector()
    engine = engine or ScriptedEngine(write)
    tools = tools or ScriptedTools(lambda call: "2")
    size = RolloutSettings(ids("Q:"), leaves, budget, vocabulary_size=100, seed=seed)
    config = replace(config, initial_rollouts=roots)
    services = RolloutServices(engine, tools, syntax(), collector)
    asyncio.run(PromptRollout(size, config, build_rule(config), services).run())
    return collector


ALWAYS = ArpoConfig(base_probability=1.0, entropy_weight=0.0, probe_tokens=3)
NEVER = ArpoConfig(base_probability=0.0, entropy_weight=0.0, probe_tokens=3)


def test_a_certain_fork_after_every_result_fills_the_budget_without_top_ups():
    leaves = grow(ALWAYS, one_call).leaves
    assert len(leaves) == 8
    assert sum(leaf.parent is None for leaf in leaves) == 4
    assert not any(leaf.is_top_up for leaf in leaves)


def test_without_forks_the_missing_leaves_start_from_the_prompt():
    leaves = grow(NEVER, one_call).leaves
    assert len(leaves) == 8
    assert sum(leaf.is_top_up for leaf in leaves) == 4
    assert all(leaf.parent is None for leaf in leaves)


def test_without_tools_all_leaves_start_at_once():
    engine = ScriptedEngine(lambda context: f"no{END}")
    leaves = grow(ArpoConfig(max_tool_calls=0), None, engine=engine).leaves
    assert len(leaves) == 8
    assert [text(request.token_ids) for request in engine.requests] == ["Q:"] * 8


def test_a_fork_shares_its_parents_tokens_up_to_the_end_of_the_result():
    leaves = grow(ALWAYS, one_call, leaves=2, roots=1).leaves
    fork = next(leaf for leaf in leaves if leaf.parent is not None)
    parent = next(leaf for leaf in leaves if leaf.parent is None)
    assert text(parent.token_ids) == text(fork.token_ids) == CALL + RESULT + f"so 2{END}"
    assert fork.parent == parent.number
    assert fork.fork_token == len(CALL + RESULT)
    shared = [a == b for a, b in zip(parent.segment_ids, fork.segment_ids, strict=True)]
    assert shared == [True] * len(CALL + RESULT) + [False] * len(f"so 2{END}")


def test_tool_tokens_are_masked_and_sampled_tokens_are_not():
    leaf = grow(NEVER, one_call, leaves=1, roots=1).leaves[0]
    assert leaf.response_mask == [1] * len(CALL) + [0] * len(RESULT) + [1] * len(f"so 2{END}")
    assert leaf.logprobs == [-1.0] * len(CALL) + [0.0] * len(RESULT) + [-1.0] * len(f"so 2{END}")


def test_siblings_carry_the_request_id_of_their_root():
    leaves = grow(ALWAYS, one_call).leaves
    for leaf in leaves:
        if leaf.parent is not None:
            assert leaf.request_id == next(one for one in leaves if one.number == leaf.parent).request_id
    assert len({leaf.request_id for leaf in leaves if leaf.parent is None}) == 4


def test_an_open_fork_point_is_probed_with_k_tokens_and_a_closed_one_is_not():
    engine = ScriptedEngine(one_call)
    grow(NEVER, None, leaves=1, roots=1, budget=100, engine=engine)
    # One leaf, no budget to fork: the first turn, then one request for all of the second.
    assert [request.max_tokens for request in engine.requests] == [100, 100 - len(CALL + RESULT)]
    engine = ScriptedEngine(one_call)
    grow(ALWAYS, None, leaves=2, roots=1, budget=100, engine=engine)
    room = 100 - len(CALL + RESULT)
    # The root's first tokens are measured by a request of their own too: H_initial.
    assert sorted(request.max_tokens for request in engine.requests) == sorted([3, 97, 3, room, room - 3])
    engine = ScriptedEngine(one_call)
    grow(replace(ALWAYS, entropy_source="surprisal"), None, leaves=2, roots=1, budget=100, engine=engine)
    assert sorted(request.max_tokens for request in engine.requests) == sorted([100, 3, room, room - 3])


def test_an_answer_that_ends_within_the_probe_asks_for_nothing_more():
    engine = ScriptedEngine(lambda context: continued(context, CALL, f"2{END}"))
    leaves = grow(ALWAYS, None, leaves=2, roots=1, engine=engine).leaves
    assert len(engine.requests) == 4
    assert {leaf.stop_reason for leaf in leaves} == {StopReason.COMPLETED}


def test_entropy_change_is_taken_against_the_own_roots_first_tokens():
    class Surprised(ScriptedEngine):
        async def generate(self, request):
            self.logprob = -3.0 if RESULT in text(request.token_ids) else -1.0
            return await super().generate(request)

    leaf = grow(ALWAYS, None, leaves=2, roots=1, engine=Surprised(one_call)).leaves[0]
    root = leaf if leaf.parent is None else None
    decision = (root or grow(ALWAYS, None, leaves=2, roots=1, engine=Surprised(one_call)).leaves[1]).decisions[0]
    # Three probe tokens, 3 - 1 nats each, over log 100.
    assert decision.entropy == 3.0
    assert decision.entropy_change == pytest.approx(6 / 4.60517, rel=1e-5)


def test_a_fork_inherits_its_roots_initial_entropies():
    leaves = grow(ALWAYS, one_call).leaves
    assert all(leaf.turn_entropies[0] == [1.0, 1.0, 1.0] for leaf in leaves)


def test_a_result_that_does_not_fit_is_cut_and_marked_and_ends_the_leaf():
    leaf = grow(NEVER, one_call, leaves=1, roots=1, budget=len(CALL) + 5).leaves[0]
    assert text(leaf.token_ids) == CALL + RESULT[:5]
    assert leaf.is_result_cut
    assert leaf.stop_reason is StopReason.LENGTH


def test_a_leaf_without_room_after_a_result_does_not_fork():
    leaves = grow(ALWAYS, one_call, leaves=2, roots=1, budget=len(CALL + RESULT)).leaves
    assert [leaf.parent for leaf in leaves] == [None, None]
    assert not any(leaf.is_result_cut for leaf in leaves)


def test_one_call_too_many_ends_the_leaf():
    config = ArpoConfig(base_probability=0.0, max_tool_calls=2)
    tools = ScriptedTools(lambda call: "2")
    leaf = grow(config, lambda context: CALL, leaves=1, roots=1, tools=tools).leaves[0]
    assert leaf.stop_reason is StopReason.TOOL_LIMIT
    assert len(tools.calls) == leaf.tool_calls == 2
    assert text(leaf.token_ids) == (CALL + RESULT) * 2 + CALL


def test_a_closing_tag_split_over_probe_and_rest_ends_the_turn_where_it_is_complete():
    # An engine that sees only the rest does not see the tag and runs on.
    class Blind(ScriptedEngine):
        async def generate(self, request):
            if not text(request.token_ids).endswith("<python>2</py"):
                return await super().generate(request)
            return Generation(ids("thon> and on"), [-2.0] * 12)

    def two_calls(context: str) -> str:
        return continued(context, CALL, "<python>2</python>", f"!{END}")

    config = ArpoConfig(base_probability=0.0, probe_tokens=len("<python>2</py"))
    collector = grow(config, None, leaves=2, roots=1, engine=Blind(two_calls))
    for leaf in collector.leaves:
        assert text(leaf.token_ids) == CALL + RESULT + "<python>2</python>" + RESULT + f"!{END}"


@pytest.mark.parametrize(
    ("turn", "seen"),
    [
        ("</python>", "Error: the closing tag of 'python' has no opening tag before it."),
        ("<search>x</python>", "Error: the closing tag of 'python' has no opening tag before it."),
        ("<search><python>7</python>", "2"),
    ],
)
def test_malformed_calls_are_answered(turn, seen):
    leaf = grow(NEVER, lambda context: f".{END}" if "<result>" in context else turn, leaves=1, roots=1).leaves[0]
    assert text(leaf.token_ids) == f"{turn} <result>\n{seen}\n</result>.{END}"


def test_an_unclosed_tag_is_text():
    leaf = grow(NEVER, lambda context: f"<python>1{END}", leaves=1, roots=1).leaves[0]
    assert leaf.stop_reason is StopReason.COMPLETED
    assert leaf.tool_calls == 0


def test_an_empty_generation_ends_the_leaf_and_loses_none():
    leaves = grow(ALWAYS, lambda context: "").leaves
    assert len(leaves) == 8
    assert {leaf.stop_reason for leaf in leaves} == {StopReason.EMPTY}


def test_an_engine_that_fails_fails_the_prompt_and_leaves_no_task_behind():
    class Failing(ScriptedEngine):
        async def generate(self, request):
            if RESULT in text(request.token_ids):
                raise RuntimeError("server is gone")
            return await super().generate(request)

    async def run() -> int:
        collector = Collector()
        size = RolloutSettings(ids("Q:"), 8, 100, vocabulary_size=100, seed="s")
        services = RolloutServices(Failing(one_call), ScriptedTools(lambda call: "2"), syntax(), collector)
        with pytest.raises(RuntimeError, match="server is gone"):
            await PromptRollout(size, ALWAYS, build_rule(ALWAYS), services).run()
        return len(asyncio.all_tasks())

    assert asyncio.run(run()) == 1


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
def test_what_a_tool_raises_that_would_end_a_program_is_an_answer(error):
    class Aborting(ScriptedTools):
        async def execute(self, call, state, messages):
            raise error

    config = replace(NEVER, infrastructure_retries=0)
    [leaf] = grow(config, one_call, tools=Aborting(lambda call: "2"), leaves=1, roots=1).leaves
    assert leaf.stop_reason is StopReason.COMPLETED
    assert [call.status for call in leaf.calls] == ["infrastructure_error"]
    assert f"Error executing tool 'python': it raised {error.__name__}" in text(leaf.token_ids)


def test_a_tool_that_swallows_its_cancellation_leaves_no_task_behind():
    class Stubborn(ScriptedTools):
        async def execute(self, call, state, messages):
            if not self.calls:
                self.calls.append(call)
                raise RuntimeError("first call fails")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return await super().execute(call, state, messages)

    async def run() -> int:
        size = RolloutSettings(ids("Q:"), 8, 100, vocabulary_size=100, seed="s")
        services = RolloutServices(ScriptedEngine(one_call), Stubborn(lambda call: "2"), syntax(), Collector())
        with pytest.raises(RuntimeError, match="first call fails"):
            await PromptRollout(size, ALWAYS, build_rule(ALWAYS), services).run()
        return len(asyncio.all_tasks())

    assert asyncio.run(run()) == 1


def test_a_leaf_without_a_token_has_the_version_of_the_weights_that_gave_none():
    leaf = grow(NEVER, lambda context: "", leaves=1, roots=1).leaves[0]
    assert leaf.token_ids == []
    assert leaf.weight_versions == (3, 3)


def test_every_token_that_ends_an_answer_ends_it_within_the_probe_too():
    second_end = TagSyntax(tags=Tags(["python"]), decode=text, encode=ids, end_token_ids={ord(END), ord("^")})
    collector = Collector()
    # The engine stops at the second end token; the probe of three tokens ends exactly there.
    engine = ScriptedEngine(lambda context: continued(context, CALL, "ok^"))
    size = RolloutSettings(ids("Q:"), 2, 100, vocabulary_size=100, seed="s")
    tools = ScriptedTools(lambda call: "2")
    asyncio.run(
        PromptRollout(size, ALWAYS, build_rule(ALWAYS), RolloutServices(engine, tools, second_end, collector)).run()
    )
    assert [text(leaf.token_ids) for leaf in collector.leaves] == [CALL + RESULT + "ok^"] * 2
    assert {leaf.stop_reason for leaf in collector.leaves} == {StopReason.COMPLETED}


@pytest.mark.parametrize(("leaves", "roots", "budget"), [(4, 0, 10), (4, 5, 10), (4, 2, 0)])
def test_impossible_sizes_are_refused(leaves, roots, budget):
    with pytest.raises(ValueError, match="expected"):
        grow(NEVER, one_call, leaves=leaves, roots=roots, budget=budget)


@pytest.mark.parametrize("branch_factor", [2, 3, 5])
@pytest.mark.parametrize("schedule", ["async", "lockstep"])
def test_the_reference_rule_tosses_no_coin_for_a_fork_that_has_no_place(branch_factor, schedule):
    config = ArpoConfig(rule="reference", branch_factor=branch_factor, entropy_weight=0.0, schedule=schedule)
    forked = 0
    for seed in range(400):
        leaves = grow(config, one_call, leaves=2, roots=1, seed=str(seed)).leaves
        forked += any(leaf.parent is not None for leaf in leaves)
    # One place, so one coin of 0.5; five standard errors are 0.125. Z - 1 coins would give 0.75 and 0.94.
    assert forked / 400 == pytest.approx(0.5, abs=0.125)


@pytest.mark.parametrize("leaves", [2, 3, 4])
def test_the_reference_rule_forks_always_where_alpha_is_1_whatever_the_change(leaves):
    class Calming(ScriptedEngine):
        """Entropy 9 for a first turn, 1 for all that follow."""

        async def generate(self, request):
            self.logprob = -1.0 if RESULT in text(request.token_ids) else -9.0
            return await super().generate(request)

    def two_calls(context: str) -> str:
        return continued(context, CALL, CALL, f"so 2{END}")

    config = ArpoConfig(rule="reference", base_probability=1.0, entropy_weight=5.0, probe_tokens=3)
    grown = grow(config, None, leaves=leaves, roots=1, engine=Calming(two_calls)).leaves
    decisions = [decision for leaf in grown for decision in leaf.decisions]
    assert [decision.forks for decision in decisions] == [1] * (leaves - 1)
    # The second decisions of a leaf see a change of three times 1 - 9 nats over ln 100.
    assert leaves == 2 or min(decision.entropy_change for decision in decisions) == pytest.approx(-24 / 4.60517)
    assert not any(leaf.is_top_up for leaf in grown)


@st.composite
def worlds(draw):
    """A configuration, sizes, and a model that calls tools at random."""
    rule = draw(st.sampled_from(["bernoulli", "threshold", "reference"]))
    config = ArpoConfig(
        branch_factor=draw(st.integers(1, 4)),
        base_probability=draw(st.sampled_from([0.0, 0.3, 1.0])),
        probe_tokens=draw(st.integers(1, 25)),
        max_tool_calls=draw(st.integers(0, 4)),
        rule=rule,
        entropy_source="topk" if rule == "reference" else draw(st.sampled_from(["topk", "surprisal"])),
        branch_timing=draw(st.sampled_from(["probe", "segment"])),
        schedule=draw(st.sampled_from(["async", "lockstep"])),
    )
    leaves = draw(st.integers(1, 12))
    return config, leaves, draw(st.integers(1, leaves)), draw(st.integers(1, 200)), draw(st.integers(0, 2**32))


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_budget_is_never_exceeded_whatever_the_order_of_arrival(world):
    config, leaves, roots, budget, seed = world
    chance = random.Random(seed)
    turns = [CALL, "<search>a b</search>", f"{END}", f"words{END}", "</python>", "w" * 30, ""]
    engine = ScriptedEngine(lambda context: chance.choice(turns), delays=chance)
    tools = ScriptedTools(lambda call: "r" * chance.randrange(40), delays=chance)
    grown = grow(config, None, leaves=leaves, roots=roots, budget=budget, engine=engine, tools=tools).leaves
    check_tree(grown, leaves, budget, config, tools)


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_the_same_node_draws_the_same_whatever_the_order_of_arrival(seed):
    config = ArpoConfig(probe_tokens=3)

    def decisions(delays: random.Random) -> dict[str, int]:
        engine = ScriptedEngine(one_call, delays=delays)
        # So many leaves to give that no node is short of them.
        grown = grow(config, None, leaves=64, roots=8, engine=engine, seed=str(seed)).leaves
        return {leaf.path: leaf.decisions[0].forks for leaf in grown if leaf.decisions and int(leaf.path[0]) < 8}

    first, second = decisions(random.Random(1)), decisions(random.Random(2))
    roots = [str(number) for number in range(8)]
    assert [first[root] for root in roots] == [second[root] for root in roots]
