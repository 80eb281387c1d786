"""The hook: verl's own bookkeeping to the last bit, what a loss names and gets, and what is refused before a run."""

import inspect
import math
import pickle
import sys
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_module
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla, get_policy_loss_fn
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils import tensordict_utils
from verl.workers.config import FSDPActorConfig
from verl.workers.engine_workers import ActorRolloutRefWorker
from verl.workers.utils.losses import ppo_loss

from arpo_verl.integration.training.mini_batch_sums import MiniBatchSums
from arpo_verl.integration.training.policy_loss import COLUMN, ChosenLoss, check_loss, ppo_loss_with_more
from arpo_verl.losses import VERLS_ARGUMENTS
from arpo_verl.preflight.checks import check_parts

PROMPT_TOKENS = 3
MODE = "actor_rollout_ref.actor.policy_loss.loss_mode"
BAND = "entropy_band"
ROWS = [[1, 1, 0, 1], [1, 1, 0, 1, 1], [1]]
SEGMENTS = [[0, 0, 1, 2], [0, 0, 1, 3, 3], [-1]]
OWN = """
from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla

SEEN = {}

def plain(**arguments): return compute_policy_loss_vanilla(**arguments)
def curious(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights=None, *,
            entropy, segment_ids, turn_ids, is_excluded, past_entropy, clip_scale, weight=1.0):
    SEEN.update(locals())
    loss, metrics = plain(old_log_prob=old_log_prob, log_prob=log_prob, advantages=advantages,
                          response_mask=response_mask, loss_agg_mode=loss_agg_mode, config=config,
                          rollout_is_weights=rollout_is_weights)
    return loss + weight * (entropy * response_mask).sum(), metrics
def short(old_log_prob, log_prob): pass
def number(**arguments): return 1.0, {}
def matrix(**arguments): return arguments["log_prob"], {}
def alone(**arguments): return plain(**arguments)[0]
def listed(**arguments): return plain(**arguments)[0], [1]
def positional(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights, /): pass
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    (tmp_path / "arpo_own_loss.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("arpo_own_loss", None)


def configuration(*overrides: str):
    with initialize_config_module("arpo_verl.config", version_base=None):
        sizes = ["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1"]
        return compose("arpo_trainer", overrides=["platform=cpu", *sizes, *overrides])


def nested(rows) -> torch.Tensor:
    return torch.nested.as_nested_tensor([torch.as_tensor(row) for row in rows], layout=torch.jagged)


def micro_batch(columns: dict | None = None) -> tuple[TensorDict, dict[str, torch.Tensor]]:
    """Return a micro-batch and a model's output, as verl's engine hands them to the loss."""
    generator = torch.Generator().manual_seed(0)

    def floats(extra: int = 0) -> torch.Tensor:
        return nested([-torch.rand(len(row) + extra, generator=generator) for row in ROWS])

    data = TensorDict(
        {
            "prompts": nested([[0] * PROMPT_TOKENS for _ in ROWS]),
            "responses": nested([[0] * len(row) for row in ROWS]),
            "response_mask": nested(ROWS),
            "old_log_probs": floats(),
            "ref_log_prob": floats(),
            "advantages": floats(),
            **(columns or {}),
        },
        batch_size=len(ROWS),
    )
    tensordict_utils.assign_non_tensor(data, batch_num_tokens=8, dp_size=1, global_batch_size=None)
    rows = [torch.rand(PROMPT_TOKENS + len(row), generator=generator).requires_grad_() for row in ROWS]
    return data, {"log_probs": nested(rows).neg(), "entropy": nested(rows), "leaves": rows}


def actor() -> FSDPActorConfig:
    sizes = {"rollout_n": 2, "ppo_mini_batch_size": 2, "ppo_micro_batch_size_per_gpu": 1}
    return FSDPActorConfig(strategy="fsdp", **sizes, use_kl_loss=True, kl_loss_coef=0.5, entropy_coeff=0.25)


def beside(actor_config: FSDPActorConfig) -> FSDPActorConfig:
    object.__setattr__(actor_config.policy_loss, "loss_mode", "arpo.loss")
    return actor_config


def test_verls_bookkeeping_is_the_same_to_the_last_bit():
    chosen = ChosenLoss.of(configuration("arpo.loss=arpo_own_loss.plain"))
    results = []
    for loss in (
        lambda *given: ppo_loss(actor(), *given),
        lambda *given: ppo_loss_with_more(beside(actor()), *given, chosen=chosen, sums=MiniBatchSums()),
    ):
        data, output = micro_batch()
        value, metrics = loss(output, data, None)
        gradients = torch.autograd.grad(value, output["leaves"])
        results.append((value.item(), [one.tolist() for one in gradients], metrics))
    (one, gradients, metrics), (other, others, theirs) = results
    assert one == other and gradients == others and any(any(row) for row in gradients)
    assert metrics.keys() == theirs.keys() >= {"actor/pg_loss", "actor/entropy_loss", "kl_loss", "actor/pg_clipfrac"}
    for name, metric in metrics.items():
        assert str(vars(metric) if hasattr(metric, "__dict__") else metric) == str(
            vars(theirs[name]) if hasattr(theirs[name], "__dict__") else theirs[name]
        )


def test_a_loss_gets_what_it_names_as_wide_as_the_responses():
    import arpo_own_loss

    chosen = ChosenLoss.of(configuration("arpo.loss=arpo_own_loss:curious", "+arpo.loss_kwargs.weight=2.0"))
    scales = [[0.5] * len(row) for row in ROWS]
    columns = {
        "segment_ids": SEGMENTS,
        "turn_ids": [[1, 1, 0, 2], [1, 1, 0, 2, 2], [0]],
        "is_excluded": [[0] * 4, [1] * 5, [1]],
        "past_entropy": [[0.75] * len(row) for row in ROWS],
        "clip_scale": scales,
    }
    data, output = micro_batch({COLUMN.format(name): nested(rows) for name, rows in columns.items()})
    plain, _ = micro_batch()
    value, metrics = ppo_loss_with_more(beside(actor()), output, data, chosen=chosen, sums=MiniBatchSums())
    seen = arpo_own_loss.SEEN
    assert seen["segment_ids"].tolist() == [[0, 0, 1, 2, -1], [0, 0, 1, 3, 3], [-1] * 5]
    assert seen["turn_ids"].tolist() == [[1, 1, 0, 2, 0], [1, 1, 0, 2, 2], [0] * 5]
    assert seen["is_excluded"].tolist() == [False, True, True]
    assert seen["past_entropy"].item() == 0.75
    assert seen["clip_scale"].tolist() == [[0.5] * 4 + [0], [0.5] * 5, [0.5, 0, 0, 0, 0]]
    assert seen["weight"] == 2.0
    # A token's entropy is that of the distribution that it was drawn from: one position before its own.
    for row, mask in enumerate(ROWS):
        before = output["leaves"][row][PROMPT_TOKENS - 1 : -1]
        assert seen["entropy"][row, : len(mask)].tolist() == before.tolist()
    gradients = torch.autograd.grad(value, output["leaves"], retain_graph=True)
    without = torch.autograd.grad(ppo_loss(actor(), output, plain)[0], output["leaves"])
    for row, mask in enumerate(ROWS):
        difference = (gradients[row] - without[row])[PROMPT_TOKENS - 1 : -1]
        assert difference.tolist() == pytest.approx([2.0 * one for one in mask], abs=1e-6)
    assert "actor/pg_clipfrac" in metrics


def test_a_column_that_is_not_there_is_an_error_that_names_the_parameter():
    chosen = ChosenLoss.of(configuration("arpo.loss=arpo_own_loss.curious"))
    data, output = micro_batch({COLUMN.format("segment_ids"): nested(SEGMENTS)})
    with pytest.raises(ValueError, match=r"\['turn_ids', 'is_excluded', 'past_entropy', 'clip_scale'\], which nothing"):
        ppo_loss_with_more(beside(actor()), output, data, chosen=chosen, sums=MiniBatchSums())


@pytest.mark.parametrize("name", ["number", "matrix", "alone", "listed"])
def test_what_a_loss_may_not_return_is_said(name):
    chosen = ChosenLoss.of(configuration(f"arpo.loss=arpo_own_loss.{name}"))
    data, output = micro_batch()
    with pytest.raises(ValueError, match=rf"arpo.loss=arpo_own_loss.{name} returned .*; expected a tensor without"):
        ppo_loss_with_more(beside(actor()), output, data, chosen=chosen, sums=MiniBatchSums())


@pytest.mark.parametrize(
    ("overrides", "name", "settings"),
    [
        ([], None, {}),
        ([f"{MODE}=gspo"], None, {}),
        (["arpo.loss=grad_preserving"], "grad_preserving", {}),
        ([f"{MODE}=arpo_grad_preserving"], "grad_preserving", {}),
        (["arpo.loss=entropy_band", "+arpo.loss_kwargs={low: 0.1, base: gspo}"], BAND, {"low": 0.1, "base": "gspo"}),
        ([f"{MODE}=arpo_entropy_band", "+arpo.loss_kwargs.high=3"], BAND, {"high": 3}),
        (["arpo.loss=entropy_band", f"{MODE}=arpo_entropy_band"], "entropy_band", {}),
        (["arpo.loss=arpo_own_loss.plain", "algorithm.adv_estimator=grpo"], "arpo_own_loss.plain", {}),
    ],
)  # fmt: skip
def test_a_loss_is_chosen_by_our_key_or_by_verls(overrides, name, settings):
    chosen = ChosenLoss.of(configuration(*overrides))
    assert (chosen and chosen.name, dict(chosen.settings) if chosen else {}) == (name, settings)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["arpo.loss=entropy_bend"], "arpo.loss='entropy_bend'; expected one of composed, entropy_band, grad_"),
        (["arpo.loss=arpo_own_loss.missing"], "has no 'missing'"),
        (["arpo.loss=arpo_no_module.loss"], "can't be imported"),
        (["arpo.loss=arpo_own_loss.SEEN"], "expected a function"),
        (["arpo.loss=arpo_own_loss.short"], r"takes \['old_log_prob', 'log_prob'\]; expected the arguments that verl"),
        (["arpo.loss=arpo_own_loss.positional"], r"add \['old_log_prob', 'log_prob'"),
        (["arpo.loss=entropy_band", "+arpo.loss_kwargs.wieght=1"], "arpo.loss_kwargs.wieght is not a known setting"),
        (["arpo.loss=entropy_band", "+arpo.loss_kwargs.entropy=1"], "arpo.loss_kwargs.entropy is not a known setting"),
        (["arpo.loss=entropy_band", "+arpo.loss_kwargs.config=1"], "arpo.loss_kwargs.config is not a known setting"),
        (["+arpo.loss_kwargs.weight=1"], "without a loss to take them"),
        (["arpo.loss=entropy_band", f"{MODE}=gspo"], "leave one out"),
        (["arpo.loss=entropy_band", "distillation.enabled=True"], "distillation.enabled=True"),
        (["arpo.loss=entropy_band", "++algorithm.rollout_correction.bypass_mode=True"], "bypass_mode=True"),
    ],
)  # fmt: skip
def test_a_loss_that_cant_work_is_refused_before_the_run(overrides, message):
    with pytest.raises(ValueError, match=message):
        check_loss(configuration(*overrides))


@pytest.mark.parametrize("key", ["arpo.loss=grad_preserving", f"{MODE}=arpo_grad_preserving", "arpo.rollout=linear"])
def test_verls_older_trainer_is_refused_where_it_would_leave_out_what_is_asked_for(key):
    estimator = "arpo" if "rollout" in key else "grpo"
    overrides = [f"algorithm.adv_estimator={estimator}", "trainer.use_v1=False"]
    with pytest.raises(ValueError, match=r"trainer\.use_v1=False; expected True"):
        check_parts(configuration(*overrides, key))
    check_parts(configuration("algorithm.adv_estimator=grpo", "trainer.use_v1=False"))


def set_up(monkeypatch, *overrides: str):
    """Make a trainer as verl does, without its workers; return its configuration and the losses that it has set."""
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    functions: list = []

    def setup(self) -> None:
        self.actor_rollout_wg = SimpleNamespace(set_loss_fn=functions.append)

    monkeypatch.setattr(PPOTrainer, "__init__", lambda self, config: setattr(self, "config", config))
    monkeypatch.setattr(PPOTrainer, "_setup", setup)
    config = configuration(*overrides)
    get_trainer_cls("sync")(config=config)._setup()
    return config, functions


@pytest.mark.parametrize(
    "overrides",
    [[], ["algorithm.adv_estimator=grpo"], ["arpo.advantage=hard"], [f"{MODE}=gspo"]],
)  # fmt: skip
def test_a_run_without_a_loss_of_ours_keeps_verls(monkeypatch, overrides):
    config, functions = set_up(monkeypatch, *overrides)
    assert functions == []
    assert config.actor_rollout_ref.actor == configuration(*overrides).actor_rollout_ref.actor


@pytest.mark.parametrize(("name", "wants_entropy"), [("entropy_band", True), ("grad_preserving", False)])
@pytest.mark.parametrize("estimator", ["arpo", "grpo"])
def test_a_run_with_a_loss_of_ours_sets_it_once(monkeypatch, name, wants_entropy, estimator):
    config, [function] = set_up(monkeypatch, f"arpo.loss={name}", f"algorithm.adv_estimator={estimator}")
    assert config.actor_rollout_ref.actor.calculate_entropy == wants_entropy
    sent = pickle.loads(pickle.dumps(function))
    assert sent.keywords["config"].policy_loss.loss_mode == "arpo.loss"
    assert sent.keywords["chosen"].name == name


def test_what_the_hook_relies_on_is_what_verl_has():
    """Fails when verl passes more to a policy loss, or sets it otherwise: then the hook is to be written anew."""
    assert tuple(inspect.signature(compute_policy_loss_vanilla).parameters) == VERLS_ARGUMENTS
    assert list(inspect.signature(ppo_loss).parameters) == ["config", "model_output", "data", "dp_group"]
    assert list(inspect.signature(ActorRolloutRefWorker.set_loss_fn).parameters) == ["self", "loss_fn"]
    assert 'fields = ["response_mask", "old_log_probs", "advantages"]' in inspect.getsource(ppo_loss)


def test_verl_knows_our_losses_by_name():
    assert get_policy_loss_fn("arpo_grad_preserving") is not get_policy_loss_fn("arpo_entropy_band")
    ratios = torch.tensor([[0.0]])
    given = dict(
        zip(VERLS_ARGUMENTS, (ratios, ratios, ratios + 1, ratios == 0, "token-mean", actor(), None), strict=True)
    )
    assert get_policy_loss_fn("arpo_grad_preserving")(**given)[0].item() == -1
    assert math.isfinite(get_policy_loss_fn("arpo_grad_preserving")(**given)[1]["actor/ppo_kl"])


NEEDS = [
    ([], (), False),
    (["ratio: turn"], ("turn_ids",), False),
    (["clip_scale: entropy_hat", "entropy_gate: true"], ("entropy_hat",), False),
    (["clip_scale: turn_signal"], ("clip_scale_low", "clip_scale_high"), False),
    (["entropy_band: {low: 0.1}"], ("entropy", "past_entropy"), True),
    (["clip: balanced"], ("mini_batch_sums",), False),
]


@pytest.mark.parametrize(("blocks", "needs", "computes_entropies"), NEEDS)
def test_what_the_loss_of_blocks_gets_depends_on_its_settings(monkeypatch, blocks, needs, computes_entropies):
    overrides = ["arpo.loss=composed", f"+arpo.loss_kwargs={{{', '.join(blocks)}}}"]
    chosen = ChosenLoss.of(configuration(*overrides))
    assert chosen.required == needs and chosen.named == (*needs, "row_weight", "is_replay")
    config, [function] = set_up(monkeypatch, *overrides)
    assert config.actor_rollout_ref.actor.calculate_entropy == computes_entropies
    assert pickle.loads(pickle.dumps(function)).keywords["chosen"] == chosen


def test_the_loss_of_blocks_without_a_setting_is_verls_own_to_the_last_bit():
    chosen = ChosenLoss.of(configuration("arpo.loss=composed"))
    results = []
    for loss in (
        lambda *given: ppo_loss(actor(), *given),
        lambda *given: ppo_loss_with_more(beside(actor()), *given, chosen=chosen, sums=MiniBatchSums()),
    ):
        data, output = micro_batch()
        value, _ = loss(output, data, None)
        results.append((value.item(), [one.tolist() for one in torch.autograd.grad(value, output["leaves"])]))
    assert results[0] == results[1]


def test_the_loss_of_blocks_gets_columns_and_the_sums_of_the_mini_batch_before():
    blocks = "{clip: balanced, ratio: turn, balance: {share: 0.9}}"
    chosen = ChosenLoss.of(configuration("arpo.loss=composed", f"+arpo.loss_kwargs={blocks}"))
    columns = {
        "turn_ids": [[1, 1, 0, 2], [1, 1, 0, 2, 2], [1]],
        "row_weight": [[0.5] * len(row) for row in ROWS],
        "is_replay": [[False] * 4, [True] * 5, [False]],
    }
    sums, seen = MiniBatchSums(), []
    for _ in range(2):
        data, output = micro_batch({COLUMN.format(name): nested(rows) for name, rows in columns.items()})
        data["loss_mask"] = data["response_mask"]
        signs = [torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0][: len(row)]) for row in ROWS]
        data["advantages"] = nested(signs)
        _, metrics = ppo_loss_with_more(beside(actor()), output, data, chosen=chosen, sums=sums)
        seen.append([metrics[f"actor/bound_{side}"].aggregate() for side in ("low", "high")])
        assert 0 < metrics["actor/replay_share"].aggregate() < 1
    assert seen[0] == [0.6, 1.2] != seen[1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["+arpo.loss_kwargs.ratoi=turn"],
            r"arpo.loss=composed with .*: ratoi is not a known setting; expected one of",
        ),
        (["+arpo.loss_kwargs.clip=hard"], "clip='hard'; expected one of ppo"),
        (["+arpo.loss_kwargs.entropy=1"], "entropy is not a known setting"),
        (["+arpo.loss_kwargs.clip_scale=turn_signal"], r"parameters \['clip_scale_low', 'clip_scale_high'\], which"),
        (
            ["+arpo.loss_kwargs.clip_scale=entropy_hat", "algorithm.adv_estimator=grpo"],
            r"parameters \['entropy_hat'\], which nothing fills in",
        ),
        (
            ["+arpo.loss_kwargs.entropy_band={}", "++algorithm.rollout_correction.bypass_mode=True"],
            "needs the entropies of past steps",
        ),
        (
            [
                "+arpo.advantage_kwargs={terms: [{}], token_weight: entropy_z}",
                "++algorithm.rollout_correction.bypass_mode=True",
            ],
            "entropies=None; expected the entropy of every token: verl computes none with",
        ),
    ],
)
def test_what_the_parts_of_a_run_need_of_each_other_is_checked_before_the_run(overrides, message):
    advantage = ["arpo.advantage=term_sum", "+arpo.advantage_kwargs.terms=[{}]"]
    if any("advantage_kwargs" in one for one in overrides):
        advantage = advantage[:1]
    with pytest.raises(ValueError, match=message):
        check_parts(configuration("arpo.loss=composed", *advantage, *overrides))


def test_an_advantage_and_a_loss_that_fit_each_other_are_accepted():
    for scale in ("entropy_hat", "turn_signal"):
        signal = {"entropy_hat": "", "turn_signal": "{unit: node, signal: info_gain, baseline: turn}"}[scale]
        check_parts(
            configuration(
                "arpo.loss=composed",
                f"+arpo.loss_kwargs={{clip_scale: {scale}, ratio: turn}}",
                "arpo.advantage=term_sum",
                f"arpo.information_gain={scale == 'turn_signal'}",
                f"+arpo.advantage_kwargs={{terms: [{{}}{', ' * bool(signal)}{signal}], clip_scale: {scale}}}",
            )
        )
