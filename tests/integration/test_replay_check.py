"""What replay can't work with is refused before a run starts, with what to change."""

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import verl  # noqa: F401  registers the resolver that the preset uses
from hydra import compose, initialize_config_module
from replay_examples import row

from arpo_verl.data.traces import TRACE_SCHEMA, TraceOptions, convert_trace, with_tags
from arpo_verl.integration.training.replay_source import FILE, encode_traces, source_of, tokenizer_digest
from arpo_verl.preflight.checks import check_parts
from arpo_verl.replay import State
from arpo_verl.replay.store.files import write_rows
from arpo_verl.rollout.tag_syntax import Tags
from arpo_verl.tiny_world.model import make_tokenizer

OWN = ("arpo.replay=own", "+arpo.replay_kwargs.success=1.0")


def configuration(*overrides: str):
    with initialize_config_module("arpo_verl.config", version_base=None):
        return compose("arpo_trainer", overrides=["trainer.device=cpu", *overrides])


@pytest.mark.parametrize("more", [
    (), ("algorithm.adv_estimator=grpo",), ("algorithm.adv_estimator=grpo", "arpo.rollout=tree"),
    ("arpo.replay=latest",), ("arpo.replay=self_imitation",),
    ("algorithm.filter_groups.enable=True", "+arpo.replay_kwargs.trigger=always"),
    ("++algorithm.rollout_correction.bypass_mode=True", "+arpo.replay_kwargs.old_log_prob=stored"),
    ("arpo.replay=own_replay_sources.All",),
])  # fmt: skip
def test_what_can_work_passes(more):
    check_parts(configuration(*OWN, *more))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("arpo.replay_kwargs.success=null",), "success=None; expected the reward from which a leaf counts"),
        (("arpo.replay=mine",), "arpo.replay='mine'; expected one of latest, own, peers, self_imitation, teachers"),
        (("arpo.replay=json.dumps",), "expected a class"),
        (("arpo.replay=pathlib.Path",), "expected a subclass of arpo_verl.replay.ReplaySource"),
        (("arpo.replay=null",), "without a source to take them; expected arpo.replay set"),
        (("+arpo.replay_kwargs.rows=4",), "arpo.replay_kwargs.rows is not a known setting; expected one of"),
        (("trainer.v1.trainer_mode=colocate_async",), "'colocate_async' with arpo.replay=own; expected 'sync'"),
        (("trainer.v1.trainer_mode=separate_async",), "several versions of the weights"),
        (("trainer.use_v1=False",), "trainer.use_v1=False; expected True"),
        (("algorithm.filter_groups.enable=True",), "helps groups that fail as a whole: verl replaces these before"),
        (("++algorithm.rollout_correction.bypass_mode=True",), "expected arpo.replay_kwargs.old_log_prob=stored"),
        (
            ("algorithm.use_kl_in_reward=True", "+arpo.replay_kwargs.old_log_prob=probability"),
            "would count as a distance from the reference",
        ),
        (
            ("actor_rollout_ref.rollout.enable_rollout_routing_replay=True",),
            "enable_rollout_routing_replay=True with arpo.replay=own; expected False",
        ),
    ],
)  # fmt: skip
def test_what_can_not_work_is_refused(more, words):
    with pytest.raises(ValueError) as refused:
        check_parts(configuration(*OWN, *more))
    assert words in str(refused.value)


def test_a_damaged_store_of_the_step_to_go_on_from_is_refused(tmp_path):
    step = tmp_path / "global_step_3"
    step.mkdir()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("3")
    here = f"trainer.default_local_dir={tmp_path}"
    check_parts(configuration(*OWN, here))
    write_rows(step / FILE, State([row()]), "any")
    check_parts(configuration(*OWN, here))
    (step / FILE).write_bytes((step / FILE).read_bytes()[:100])
    named = (f"trainer.resume_from_path={step}", "trainer.resume_mode=resume_path")
    for overrides in ((here,), named):
        with pytest.raises(ValueError, match="remove the file to begin with an empty store"):
            check_parts(configuration(*OWN, *overrides))
    check_parts(configuration(*OWN, here, "trainer.resume_mode=disable"))


def test_a_tokenizer_is_known_by_what_its_ids_mean():
    tokenizer = make_tokenizer()
    digest = tokenizer_digest(tokenizer)
    assert digest == tokenizer_digest(tokenizer) and len(digest) == 32
    tokenizer.add_tokens(["<another>"])
    assert tokenizer_digest(tokenizer) != digest


QUESTION = {"role": "user", "content": "Zovi?"}
TEXT = "<search>Zovi</search> <result>\nPage 1: Zovi 48\n</result><answer>\\boxed{48}</answer>"


def test_a_file_of_traces_is_read_as_the_rollout_would_have_written_them(tmp_path):
    tokenizer, options = make_tokenizer(), TraceOptions(Tags(("python", "search")))
    trace = convert_trace({"messages": [QUESTION, {"role": "assistant", "content": TEXT}]}, options)
    schema = with_tags(TRACE_SCHEMA, options.tags)
    pq.write_table(pa.Table.from_pylist([trace, trace], schema), tmp_path / "traces.parquet")
    first, second = encode_traces(configuration(), tokenizer, str(tmp_path / "traces.parquet"))
    assert first == second
    ids, mask = first
    prompt = tokenizer.apply_chat_template([QUESTION], add_generation_prompt=True, tokenize=True, return_dict=False)
    assert ids[: len(prompt)] == prompt and mask[: len(prompt)] == [0] * len(prompt) and mask[len(prompt)] == 1
    inserted = [token for token, one in zip(ids[len(prompt) :], mask[len(prompt) :], strict=True) if not one]
    assert tokenizer.decode(inserted) == " <result>\nPage 1: Zovi 48\n</result>"
    assert ids[-1] == tokenizer.eos_token_id and mask[-1] == 1


def test_a_file_that_holds_no_traces_is_refused(tmp_path):
    pandas.DataFrame({"prompt": ["1+1?"]}).to_parquet(tmp_path / "no_traces.parquet")
    with pytest.raises(ValueError, match=r"can't be read as traces .* convert it again"):
        encode_traces(configuration(), make_tokenizer(), str(tmp_path / "no_traces.parquet"))


def test_a_run_without_replay_has_no_source():
    assert source_of(configuration()) is None
