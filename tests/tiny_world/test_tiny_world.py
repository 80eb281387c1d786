"""The tiny world: its questions and answers, its corpus under the real search tool, its traces and its tokenizer."""

import asyncio
import json
import os
import random
import subprocess
import sys
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from arpo_tools import LocalSearch, PythonInterpreter
from arpo_verl.config import ArpoConfig
from arpo_verl.reward import compute_score
from arpo_verl.tiny_world import cold_start, model
from arpo_verl.tiny_world.world import GRADES, SYLLABLES, Question, World, cold_start_question, make_world, trace

SEARCH = Question("search", "Bobo?", "48", (("search", "Bobo"),))
PYTHON = Question("python", "34*57?", "1938", (("python", "34*57"),))
BOTH = Question("both", "Bobo*Zuzu?", "552", (("search", "Bobo"), ("search", "Zuzu"), ("python", "46*12")))
RESULTS = {
    "search": ["Page 1: Bobo 48"],
    "python": ["1938"],
    "both": ["Page 1: Bobo 46", "Page 1: Zuzu 12", "552"],
}


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(0)


@pytest.fixture(scope="module")
def corpus(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("world") / "corpus.jsonl"
    path.write_text("".join(json.dumps(document) + "\n" for document in world.corpus()))
    return path


@pytest.fixture(scope="module")
def tokenizer():
    return model.make_tokenizer()


@pytest.fixture(scope="module")
def saved_tokenizer(tokenizer, tmp_path_factory):
    """The tokenizer as everybody else gets it, which is not the class that was saved."""
    folder = tmp_path_factory.mktemp("model")
    model.save(model.make_model(tokenizer, 0), tokenizer, folder)
    return AutoTokenizer.from_pretrained(folder)


def test_sizes_are_those_asked_for(world):
    assert (len(world.facts), len(world.train), len(world.validation)) == (256, 2048, 72)
    small = make_world(0, facts=16, train=20, validation=8)
    assert (len(small.facts), len(small.train), len(small.validation)) == (16, 20, 8)


def test_the_same_seed_gives_the_same_world_and_another_seed_another(world):
    assert make_world(0) == world
    other = make_world(1)
    assert other.facts != world.facts
    assert other.train != world.train
    assert other.validation != world.validation


def test_the_same_seed_gives_the_same_world_in_every_process():
    code = (
        "import hashlib; from arpo_verl.tiny_world.world import make_world; "
        "print(hashlib.sha256(repr(vars(make_world(0))).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("seed", range(5))
def test_no_validation_question_and_no_validation_fact_is_in_training(seed):
    world = make_world(seed)
    assert not {question.text for question in world.train} & {question.text for question in world.validation}
    names = [
        {text for question in half for tool, text in question.calls if tool == "search"}
        for half in (world.train, world.validation)
    ]
    assert not names[0] & names[1]
    assert names[0] | names[1] <= world.facts.keys()


def test_validation_questions_are_all_different(world):
    assert len({question.text for question in world.validation}) == 72


def test_training_asks_twice_about_single_facts_alone(world):
    counts = Counter(question.text for question in world.train)
    assert all(text[:-1] in world.facts for text, count in counts.items() if count > 1)


def test_grades_are_even(world):
    assert Counter(question.grade for question in world.validation) == dict.fromkeys(GRADES, 24)
    # 2048 = 3 * 682 + 2
    assert Counter(question.grade for question in world.train) == {"search": 683, "python": 683, "both": 682}


def test_every_answer_follows_from_the_facts(world):
    for question in world.train + world.validation:
        body = question.text.removesuffix("?")
        assert question.text == body + "?"
        factors = [world.facts[factor] if factor in world.facts else int(factor) for factor in body.split("*")]
        assert question.grade == ("search" if len(factors) == 1 else "both" if body[0].isalpha() else "python")
        assert question.answer == str(factors[0] * (factors[1] if len(factors) == 2 else 1))


def test_calls_lead_to_the_answer(world):
    for question in world.train + world.validation:
        tools = {"search": ["search"], "python": ["python"], "both": ["search", "search", "python"]}[question.grade]
        assert [tool for tool, _ in question.calls] == tools
        searched = [text for tool, text in question.calls if tool == "search"]
        if tools[-1] == "python":
            first, second = question.calls[-1][1].split("*")
            assert str(int(first) * int(second)) == question.answer
            assert not searched or [world.facts[name] for name in searched] == [int(first), int(second)]
        else:
            assert str(world.facts[searched[0]]) == question.answer


def test_names_are_two_syllables_and_values_have_two_digits(world):
    for name, value in world.facts.items():
        assert name == name.capitalize()
        assert {name[:2].lower(), name[2:]} <= set(SYLLABLES)
        assert 10 <= value <= 99


def test_the_corpus_has_one_document_a_fact(world):
    documents = world.corpus()
    assert len(documents) == len(world.facts)
    assert all(
        document["contents"] == f"{document['title']} {world.facts[document['title']]}" for document in documents
    )


@pytest.mark.parametrize("top_k", [1, 3])
def test_the_search_tool_returns_exactly_what_cold_start_traces_show(world, corpus, top_k):
    tool = LocalSearch(corpus, top_k=top_k)

    async def search_all() -> list[str]:
        return [(await tool.run(name)).text for name in world.facts]

    assert asyncio.run(search_all()) == [f"Page 1: {name} {value}" for name, value in world.facts.items()]


def test_a_query_with_two_names_returns_both_facts_and_nothing_else(world, corpus):
    tool = LocalSearch(corpus, top_k=3)
    first, second = list(world.facts)[:2]
    lines = asyncio.run(tool.run(f"{first} {second}")).text.splitlines()
    assert {line.split(": ")[1] for line in lines} == {f"{name} {world.facts[name]}" for name in (first, second)}


def test_the_interpreter_returns_exactly_what_cold_start_traces_show():
    _, code = PYTHON.calls[0]
    assert asyncio.run(PythonInterpreter(timeout_seconds=60).run(code)).text == RESULTS["python"][0]


@pytest.mark.parametrize("arguments", [{"facts": 4, "validation": 3}, {"validation": 129}, {"facts": 4901}])
def test_a_world_that_cannot_be_is_refused_with_what_can(arguments):
    facts, validation = arguments.get("facts", 256), arguments.get("validation", 72)
    message = f"facts={facts}, train=2048, validation={validation}; expected at most 4900 facts, at most facts/2"
    with pytest.raises(ValueError, match=message):
        make_world(0, **arguments)


def test_a_world_of_the_largest_sizes_can_be():
    assert len(make_world(0, validation=128).validation) == 128
    assert len(make_world(0, facts=4900, train=3).facts) == 4900
    assert len(make_world(0, facts=8, train=92, validation=4).train) == 92


@pytest.mark.parametrize("arguments", ["facts=0, train=1, validation=0", "facts=8, train=93, validation=4"])
def test_too_few_facts_for_the_training_questions_are_refused(arguments):
    code = f"from arpo_verl.tiny_world.world import make_world\nmake_world(0, {arguments})"
    # A process, because one of them goes on for ever.
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=3)
    assert "ValueError: facts=" in answer.stderr


@given(st.integers())
@settings(deadline=None)
def test_cold_start_questions_have_facts_of_their_own_and_right_results(seed):
    question, results = cold_start_question(random.Random(seed))
    assert question.grade in GRADES
    assert len(results) == len(question.calls)
    values = []
    for (tool, text), result in zip(question.calls, results, strict=True):
        if tool == "search":
            page, name, value = result.rsplit(" ", 2)
            assert (page, name) == ("Page 1:", text)
            values.append(int(value))
        else:
            first, second = map(int, text.split("*"))
            assert result == question.answer == str(first * second)
            assert values in ([], [first, second])
    if question.grade == "search":
        assert question.answer == str(values[0])


def test_cold_start_questions_come_in_all_grades():
    generator = random.Random(0)
    grades = Counter(cold_start_question(generator)[0].grade for _ in range(300))
    # 100 of 300 each, with a standard deviation of sqrt(300 * 1/3 * 2/3), about 8.
    assert grades.keys() == set(GRADES)
    assert all(60 < count < 140 for count in grades.values())


def test_a_trace_with_tools_is_this_conversation():
    assert trace(BOTH, RESULTS["both"], "tools", random.Random(0)) == [
        ("<search>Bobo</search>", True),
        (" <result>\nPage 1: Bobo 46\n</result>", False),
        ("<search>Zuzu</search>", True),
        (" <result>\nPage 1: Zuzu 12\n</result>", False),
        ("<python>46*12</python>", True),
        (" <result>\n552\n</result>", False),
        ("<answer>\\boxed{552}</answer>", True),
    ]


@pytest.mark.parametrize("question", [SEARCH, PYTHON, BOTH], ids=GRADES)
@pytest.mark.parametrize(("strategy", "skipped"), [("tools", 0), ("give_up", 1), ("guess", 3)])
def test_traces_follow_their_strategy(question, strategy, skipped):
    results = RESULTS[question.grade]
    calls = max(0, len(question.calls) - skipped)
    pieces = trace(question, results, strategy, random.Random(0))
    assert [is_written_by_model for _, is_written_by_model in pieces] == [True, False] * calls + [True]
    assert [text for text, _ in pieces[:-1:2]] == [f"<{tool}>{text}</{tool}>" for tool, text in question.calls[:calls]]
    answers = [ArpoConfig.result_template.replace("{result}", result) for result in results[:calls]]
    assert [text for text, _ in pieces[1::2]] == answers
    if strategy == "tools":
        assert pieces[-1][0] == f"<answer>\\boxed{{{question.answer}}}</answer>"


@pytest.mark.parametrize("strategy", ["guess", "give_up"])
def test_guesses_are_two_digits_from_the_generator(strategy):
    generator = random.Random(0)
    guesses = [trace(BOTH, RESULTS["both"], strategy, generator)[-1][0] for _ in range(200)]
    numbers = [int(guess.removeprefix("<answer>\\boxed{").removesuffix("}</answer>")) for guess in guesses]
    assert all(10 <= number <= 99 for number in numbers)
    assert len(set(numbers)) > 50


@pytest.mark.parametrize(("question", "reward"), [(SEARCH, 1.0), (PYTHON, 1.0), (BOTH, 1.1)], ids=GRADES)
def test_a_trace_with_tools_earns_the_full_reward_and_a_wrong_guess_none(question, reward):
    right = "".join(text for text, _ in trace(question, RESULTS[question.grade], "tools", random.Random(0)))
    assert compute_score("tiny_world", right, question.answer)["score"] == pytest.approx(reward)
    guess = "".join(text for text, _ in trace(question, RESULTS[question.grade], "guess", random.Random(0)))
    assert compute_score("tiny_world", guess, question.answer)["score"] == 0.0


def test_an_unknown_strategy_is_an_error():
    with pytest.raises(KeyError, match="hope"):
        trace(SEARCH, RESULTS["search"], "hope", random.Random(0))


def test_results_have_to_match_the_calls():
    with pytest.raises(ValueError):
        trace(BOTH, RESULTS["both"][:2], "tools", random.Random(0))


@pytest.mark.parametrize(
    "text",
    [
        " <result>\n48\n</result>",
        "<search>Bobo</search> <result>\nPage 1: Bobo 48\n</result><answer>\\boxed{48}</answer>",
        "<think>\n\n  two  spaces \t</think>",
        " leading and trailing ",
        "héllo 中 😀",
        "Zxqw <b>",
    ],
)
def test_a_saved_tokenizer_gives_every_text_back(tokenizer, saved_tokenizer, text):
    ids = saved_tokenizer.encode(text)
    assert ids == tokenizer.encode(text)
    assert saved_tokenizer.decode(ids) == text
    assert saved_tokenizer.decode(ids, skip_special_tokens=True) == text


# Below U+0300 nothing is changed by Unicode's form C, to which transformers' class for qwen2 brings every text.
LETTERS = st.characters(max_codepoint=0x2FF) | st.sampled_from("中文😀")


@given(st.text(LETTERS) | st.lists(st.sampled_from([*model.TAGS, *SYLLABLES, " ", "\n", "1"])).map("".join))
@settings(deadline=None)
def test_a_saved_tokenizer_gives_any_text_back(saved_tokenizer, text):
    assert saved_tokenizer.decode(saved_tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", ["e\u0301", "\uf900"])
def test_a_saved_tokenizer_reads_as_the_one_of_the_cold_start_what_is_not_in_form_c(tokenizer, saved_tokenizer, text):
    assert saved_tokenizer.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("token", [*model.TAGS, model.PAD, model.END, *model.ROLES])
def test_tags_and_special_tokens_are_single_tokens_in_any_surroundings(saved_tokenizer, token):
    [token_id] = saved_tokenizer.encode(token)
    for text in (f"ba{token}ba", f" {token}\n", f"{token}{token}"):
        assert saved_tokenizer.encode(text).count(token_id) == text.count(token)


def test_tags_survive_where_special_tokens_are_skipped(saved_tokenizer):
    ids = saved_tokenizer.encode("".join(model.TAGS) + model.END)
    assert saved_tokenizer.decode(ids, skip_special_tokens=True) == "".join(model.TAGS)


def test_a_name_is_its_two_syllables(world, saved_tokenizer):
    for name in world.facts:
        assert saved_tokenizer.convert_ids_to_tokens(saved_tokenizer.encode(name)) == [name[:2], name[2:]]


def test_end_and_padding_are_different_tokens(saved_tokenizer):
    assert (saved_tokenizer.eos_token, saved_tokenizer.pad_token) == (model.END, model.PAD)
    assert saved_tokenizer.eos_token_id != saved_tokenizer.pad_token_id


def test_the_chat_template_is_the_one_that_cold_start_saw(saved_tokenizer):
    messages = [{"role": "user", "content": "Bobo?"}]
    prompt = saved_tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert prompt == "<|user|>Bobo?<|im_end|><|assistant|>"


@pytest.mark.parametrize("question", [SEARCH, PYTHON, BOTH], ids=GRADES)
@pytest.mark.parametrize("strategy", list(cold_start.STRATEGIES))
def test_everything_the_model_did_not_write_is_masked(tokenizer, question, strategy):
    pieces = trace(question, RESULTS[question.grade], strategy, random.Random(0))
    ids, labels = cold_start.encode_trace(tokenizer, question, pieces)
    prompt = f"<|user|>{question.text}<|im_end|><|assistant|>"
    assert tokenizer.decode(ids) == prompt + "".join(text for text, _ in pieces) + model.END
    assert all(label in (-100, token_id) for token_id, label in zip(ids, labels, strict=True))
    written = [token_id for token_id, label in zip(ids, labels, strict=True) if label != -100]
    masked = [token_id for token_id, label in zip(ids, labels, strict=True) if label == -100]
    assert tokenizer.decode(written) == "".join(text for text, by_model in pieces if by_model) + model.END
    assert tokenizer.decode(masked) == prompt + "".join(text for text, by_model in pieces if not by_model)


def test_cold_start_sees_the_tokens_that_the_rollout_will(tokenizer, saved_tokenizer):
    pieces = trace(BOTH, RESULTS["both"], "tools", random.Random(0))
    ids, _ = cold_start.encode_trace(tokenizer, BOTH, pieces)
    assert saved_tokenizer.encode(saved_tokenizer.decode(ids)) == ids


def test_the_longest_trace_fits_the_model(tokenizer):
    ids, _ = cold_start.encode_trace(tokenizer, BOTH, trace(BOTH, RESULTS["both"], "tools", random.Random(0)))
    assert len(ids) < 512


def test_the_model_is_tiny_and_the_same_for_the_same_seed(tokenizer):
    first, second, other = (model.make_model(tokenizer, seed) for seed in (0, 0, 1))
    parameters = [torch.cat([part.flatten() for part in tiny.parameters()]) for tiny in (first, second, other)]
    assert torch.equal(parameters[0], parameters[1])
    assert not torch.equal(parameters[0], parameters[2])
    assert parameters[0].numel() < 500_000
