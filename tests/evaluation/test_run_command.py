"""`arpo-verl eval run` from the command line to the file, with real tools and a real HTTP server."""

from pathlib import Path

import pandas
import pytest
from completion_server import serving
from evaluated_world import evaluate, make_evaluated_world, untimed, words

from arpo_verl.evaluation.data_files import prompts_of
from arpo_verl.evaluation.records import read_run
from arpo_verl.evaluation.run.completions_client import restore_stop
from arpo_verl.evaluation.run.server_answers import Completion
from arpo_verl.reward import compute_score
from arpo_verl.tiny_world.model import make_tokenizer
from arpo_verl.tiny_world.world import GRADES

ROWS = 6


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_evaluated_world(tmp_path_factory.mktemp("evaluated-world"), ROWS)


@pytest.fixture(autouse=True)
def search_corpus(world, monkeypatch):
    monkeypatch.setenv("ARPO_SEARCH_CORPUS", str(world / "corpus.jsonl"))


def test_every_prompt_is_asked_with_the_tools_of_training(world, tmp_path):
    out = tmp_path / "run.jsonl"
    with serving() as server:
        assert evaluate(*words(world, server, out)) == 0
        requests = list(server.requests)
    run = read_run(out)
    assert [one.id for one in run.samples] == [f"tiny_world/{GRADES[row % 3]}/{row}" for row in range(ROWS)]
    first = run.samples[1]
    product = first.truths[0]
    call = f"<python>{first.question[:-1]}</python>"
    assert first.output == f"{call} <result>\n{product}\n</result><answer>\\boxed{{{product}}}</answer>"
    assert [(one.tool, one.status) for one in first.calls] == [("python", "ok")]
    assert (first.stop_reason, first.error) == ("completed", None)
    # Everything else is the tool's: its result and the line feeds and tags around it.
    tokens = make_tokenizer().encode(f" <result>\n{product}\n</result>", add_special_tokens=False)
    assert first.response_tokens == first.generated_tokens + len(tokens)
    assert compute_score("", first.output, first.truths)["acc"] == 1
    # After one probe, two requests of each sample; the second one continues the very tokens of the first.
    assert len(requests) == 1 + 2 * ROWS
    assert requests[0]["max_tokens"] == 1
    assert all(one["stop"] == ["</python>", "</search>"] for one in requests)
    assert run.header.expected_samples == ROWS
    assert run.header.tools == ["python", "search"]


def test_verls_overrides_and_the_options_decide(world, tmp_path):
    out = tmp_path / "run.jsonl"
    more = ["arpo.max_tool_calls=0", "--n", "3", "--temperature", "0.7", "data.val_max_samples=2", "--top-k", "20"]
    with serving() as server:
        assert evaluate(*words(world, server, out, *more, "data.shuffle=False", "--seed", "5")) == 0
        sent = server.requests[-1]
    run = read_run(out)
    assert [one.sample for one in run.samples] == [0, 1, 2] * 2
    assert {one.stop_reason for one in run.samples} == {"tool_limit", "completed"}  # a third of the seeds guess
    assert (sent["temperature"], sent["top_k"], sent["top_p"], sent["min_p"]) == (0.7, 20, 1.0, 0.0)
    assert run.header.limits["max_tool_calls"] == 0
    assert run.header.sampling["seed"] == 5


def test_sampling_with_the_same_seed_asks_the_same(world, tmp_path):
    asked = []
    for seed, number in ((1, 0), (1, 1), (2, 2)):
        more = ["--n", "2", "--temperature", "1", "--seed", str(seed)]
        with serving() as server:
            assert evaluate(*words(world, server, tmp_path / f"{number}.jsonl", *more)) == 0
            asked.append(sorted((one["prompt"], one["seed"]) for one in server.requests[1:]))
    assert asked[0] == asked[1] != asked[2]
    seeds = [seed for _, seed in asked[0]]
    assert len(set(seeds)) == len(seeds)
    assert untimed(tmp_path / "0.jsonl")[1:] == untimed(tmp_path / "1.jsonl")[1:]


@pytest.mark.parametrize("keeps_stop", [True, False])
def test_a_server_without_token_ids_is_read_by_its_text(world, tmp_path, keeps_stop):
    with serving() as server:
        assert evaluate(*words(world, server, tmp_path / "ids.jsonl")) == 0
    with serving(gives_token_ids=False, keeps_stop=keeps_stop) as server:
        assert evaluate(*words(world, server, tmp_path / "text.jsonl")) == 0
    assert read_run(tmp_path / "text.jsonl").header.token_ids == "text"
    # This tokenizer encodes what the server has decoded as it was.
    assert untimed(tmp_path / "text.jsonl")[1:] == untimed(tmp_path / "ids.jsonl")[1:]


def test_native_calls_are_asked_for_and_parsed(world, tmp_path):
    out = tmp_path / "run.jsonl"
    with serving() as server:
        native = "actor_rollout_ref.rollout.multi_turn.format=hermes"
        assert evaluate(*words(world, server, out, native)) == 0
        assert "stop" not in server.requests[-1]
    run = read_run(out)
    assert run.header.call_format == {"format": "hermes"}
    assert [[call.tool for call in one.calls] for one in run.samples] == [["search"], ["python"], ["search"]] * 2
    for one in run.samples[1::3]:
        assert one.output.endswith(f"<answer>\\boxed{{{one.truths[0]}}}</answer>")
    assert {one.stop_reason for one in run.samples} == {"completed"}


def test_a_run_goes_on_after_the_server_has_failed(world, tmp_path, capsys):
    out, whole = tmp_path / "run.jsonl", tmp_path / "whole.jsonl"
    with serving() as server:
        assert evaluate(*words(world, server, whole)) == 0
        # From the sixth request on, three samples at a time.
        server.fault = lambda number, body: 500 if number > 2 * ROWS + 6 else None
        few = ["--concurrency", "3", "--retry-seconds", "0.2"]
        assert evaluate(*words(world, server, out, *few)) == 1
        done = len(read_run(out).samples)
        assert 0 < done < ROWS
        said = capsys.readouterr().err
        assert f"has {done} of {ROWS} samples; {ROWS - done} are missing ({ROWS - done} failed: " in said
        assert "HTTP 500: fault 500): the same command goes on with them" in said
        server.fault = lambda number, body: None
        assert evaluate(*words(world, server, out)) == 0
    assert untimed(out) == untimed(whole)


def test_a_whole_run_is_not_asked_again(world, tmp_path):
    out = tmp_path / "run.jsonl"
    with serving() as server:
        assert evaluate(*words(world, server, out)) == 0
        content, asked = out.read_bytes(), len(server.requests)
        assert evaluate(*words(world, server, out)) == 0
        assert len(server.requests) == asked + 1  # the probe
    assert out.read_bytes() == content


def test_other_settings_do_not_touch_a_run(world, tmp_path, capsys):
    out = tmp_path / "run.jsonl"
    with serving() as server:
        assert evaluate(*words(world, server, out)) == 0
        content = out.read_bytes()
        assert evaluate(*words(world, server, out, "--temperature", "0.5")) == 1
    said = capsys.readouterr().err
    assert "sampling.temperature=0.0, and this command has 0.5; expected the same settings" in said
    assert out.read_bytes() == content


def test_a_prompt_that_is_too_long_is_an_error_before_anything_is_written(world, tmp_path, capsys):
    out = tmp_path / "run.jsonl"
    with serving() as server:
        assert evaluate(*words(world, server, out, "data.max_prompt_length=8")) == 1
    # `Safi?` has 2 syllables, a question mark, and three tokens of the chat template; `44*53?` one more, and so on.
    assert "expected at most data.max_prompt_length=8: raise it" in capsys.readouterr().err
    assert not out.exists()


def test_a_context_that_is_full_is_a_sample_without_a_response(world, tmp_path, capsys):
    out = tmp_path / "run.jsonl"
    with serving(context_length=20) as server:
        assert evaluate(*words(world, server, out)) == 0
        assert all(len(one["prompt"]) + one["max_tokens"] <= 20 for one in server.requests)
    run = read_run(out)
    refused = [one for one in run.samples if one.error]
    assert refused and all(one.stop_reason == "error" for one in refused)
    assert f"the server refused {len(refused)}: " in capsys.readouterr().err


BAD = {
    "an option without a number": (["--n", "0"], 2, "--n 0; expected a number above 0"),
    "a bad temperature": (["--temperature", "-1"], 2, "--temperature -1.0; expected a number of at least 0"),
    "a word": (["arpo"], 2, "'arpo' is not an option and not a Hydra override"),
    "a lost file": (["--data", "lost.parquet"], 2, "--data lost.parquet; expected a file"),
    "a lost folder": (["--out", "lost/run.jsonl"], 2, "expected a file in a folder that exists"),
    "no address": (["--base-url", "host:8000"], 2, "expected something like http://host:8000"),
    "greedy samples": (["--n", "2"], 1, "--n 2 at temperature 0; expected 1 sample"),
    "an unknown key": (["arpo.branches=2"], 1, "arpo.branches"),
    "an unknown model": (["--model", "other"], 1, "does not serve 'other'; expected one of tiny"),
    "no tokenizer": (["actor_rollout_ref.model.path=/no/model"], 1, "actor_rollout_ref.model.path='/no/model'"),
    "no tools": (["actor_rollout_ref.rollout.multi_turn.tool_config_path=/no/tools.yaml"], 1, "tools"),
    "an unknown format": (["actor_rollout_ref.rollout.multi_turn.format=morse"], 1, "morse"),
    "another agent loop": (
        ["algorithm.adv_estimator=grpo", "actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent"],
        1,
        "expected 'tag_agent'",
    ),
    "rows at random": (["data.val_max_samples=2"], 1, "set data.seed, or data.shuffle=False"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_and_nothing_is_written(world, tmp_path, capsys, case):
    more, code, message = BAD[case]
    out = tmp_path / "run.jsonl"
    with serving() as server:
        assert evaluate(*words(world, server, out, *more)) == code
        assert server.requests == []
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_row_that_can_not_be_used_is_named_before_the_server_is_asked(world, tmp_path, capsys, suffix):
    frame = pandas.read_parquet(world / "validation.parquet")
    frame.at[4, "reward_model"] = {"style": "rule", "ground_truth": None}
    bad, out = tmp_path / f"bad{suffix}", tmp_path / "run.jsonl"
    frame.to_parquet(bad) if suffix == ".parquet" else frame.to_json(bad, orient="records", lines=True)
    with serving() as server:
        command = words(world, server, out)
        command[command.index("--data") + 1] = str(bad)
        assert evaluate(*command) == 1
        assert server.requests == []
    assert f"{bad}, row 5: field 'reward_model.ground_truth' is null; expected" in capsys.readouterr().err
    assert not out.exists()


def test_ids_tell_rows_apart_and_do_not_depend_on_later_rows():
    def row(source: str, **extra) -> dict:
        truth = {"ground_truth": ["2", "two"]}
        messages = [{"role": "system", "content": "Think."}, {"role": "user", "content": "1+1?"}]
        return {"data_source": source, "prompt": messages, "reward_model": truth, "extra_info": extra or None}

    rows = [row("a", index=7, level=3), row("a", index=7), row("b", id="x", index=7), row("b"), row("a", index=7)]
    prompts = prompts_of(rows, "prompt")
    assert [one.id for one in prompts] == ["a/7", "a/7#2", "b/x", "b/3", "a/7#3"]
    assert prompts_of(rows[:2], "prompt") == prompts[:2]
    assert (prompts[0].question, prompts[0].truths, prompts[0].extra) == ("1+1?", ["2", "two"], {"level": 3})


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (Completion("x <python>1", None, "stop", None), ("x <python>1</python>", False)),
        (Completion("<python>1<search>2", None, "stop", None), ("<python>1<search>2</search>", False)),
        (Completion("x <python>1", None, "stop", "</search>"), ("x <python>1</search>", False)),
        (Completion("<python>1</python>", None, "stop", "</python>"), ("<python>1</python>", False)),
        (Completion("<answer>1</answer>", None, "stop", None), ("<answer>1</answer>", True)),
        (Completion("<python>1", None, "length", None), ("<python>1", False)),
        (Completion("", None, "stop", None), ("", True)),
    ],
)
def test_what_a_text_stopped_at_is_restored(completion, expected):
    assert restore_stop(completion, ["</python>", "</search>"], "<{tool}>", "</{tool}>") == expected
