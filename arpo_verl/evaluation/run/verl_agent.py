"""The rollout of an evaluation: verl's configuration, tools and agent loop, with an HTTP server behind verl's client.

What a sample goes through is what it goes through in training: the same `TreeAgentLoop`, growing one leaf, under the
same composed configuration. Only two things differ. The tokens come from `POST /v1/completions`, and a prompt that is
longer than `data.max_prompt_length` is an error here, where verl cuts it. Written against verl 0.9.1,
`experimental/agent_loop/agent_loop.py` and `workers/rollout/llm_server.py`.
"""

import contextlib
import importlib.metadata
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import yaml
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, AgentLoopWorker
from verl.trainer.ppo.utils import create_rl_dataset
from verl.utils.import_utils import resolve_config_path
from verl.workers.rollout.llm_server import LLMServerClient

from arpo_verl.evaluation.data_files import fingerprint, prompts_of
from arpo_verl.evaluation.records import CallRecord, DataFile
from arpo_verl.evaluation.run.completions import CompletionServer, ServerCapabilities
from arpo_verl.evaluation.run.completions_client import CompletionsClient
from arpo_verl.evaluation.run.runner import PendingSample, PromptError, Response
from arpo_verl.integration.rollout.agent_loop import RenderedPrompt, TreeAgentLoop, TreeRequest
from arpo_verl.integration.rollout.signals import is_validation
from arpo_verl.integration.settings import TAG_AGENT, TAG_FORMAT, RunParts, arpo_config
from arpo_verl.preflight.compose import PACKAGE, compose_config
from arpo_verl.preflight.rollout_checks import check_format
from arpo_verl.preflight.tag_check import check_tags
from arpo_verl.reward.prefill import whole_response
from arpo_verl.rollout.tree import Leaf


@dataclass(frozen=True)
class ConfigSource:
    """The primary configuration and the overrides of a training command."""

    path: str
    """`pkg://a.package`, or a folder; a relative one begins where the command is called."""
    name: str
    overrides: Sequence[str]


def compose_evaluation_config(source: ConfigSource, model: str) -> DictConfig:
    """Compose verl's configuration; without an override, the tokenizer is the model's.

    Raises:
        ValueError: Hydra can't compose it, or its agent loop is another one than evaluation runs.
    """
    path, overrides = source.path, list(source.overrides)
    folder = path if path.startswith(PACKAGE) else str(Path(path).resolve())
    try:
        config = compose_config(folder, source.name, overrides)
    except (ImportError, HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ValueError(f"{path}/{source.name} with {overrides}: {error}") from error
    if not any(override.lstrip("+").startswith("actor_rollout_ref.model.path=") for override in overrides):
        OmegaConf.update(config, "actor_rollout_ref.model.path", model)
    agent = config.actor_rollout_ref.rollout.agent.default_agent_loop
    if not RunParts.of(config).has_response_prefix:
        raise ValueError(
            f"actor_rollout_ref.rollout.agent.default_agent_loop={agent!r}; expected {TAG_AGENT!r}, the one whose "
            f"rollout this command runs: change it"
        )
    return config


class EvaluationAgentLoop(TreeAgentLoop):
    """The agent loop of training, without its silent cut of long prompts."""

    def _cap_text_prompt_length(self, prompt_ids: list[int]) -> list[int]:
        limit = self.rollout_config.prompt_length
        if len(prompt_ids) > limit:
            raise ValueError(
                f"the prompt has {len(prompt_ids)} tokens; expected at most data.max_prompt_length={limit}: raise it"
            )
        return prompt_ids


class Rollouts:
    """A dataset, and the rollouts of its rows."""

    def __init__(self, config: DictConfig, files: Sequence[Path]) -> None:
        """Load tokenizer, tools and data as verl's workers and trainer do.

        Raises:
            ValueError: one of them can't be loaded.
        """
        self.config = config
        self._arpo = arpo_config(config)
        with _without_console_output():
            self._worker = _load_worker(config)
            check_tags(config, self._worker.tokenizer)
            self._dataset = self._load(files)
        self.prompts = prompts_of([self._dataset[row] for row in range(len(self._dataset))], config.data.prompt_key)
        self._sampling: dict[str, float | int | None] = {}
        self._client: LLMServerClient = LLMServerClient(config)

    def _load(self, files: Sequence[Path]) -> Any:
        data, samples = self.config.data, self.config.data.get("val_max_samples", -1)
        if samples > 0 and data.shuffle and data.seed is None:
            raise ValueError(
                f"data.val_max_samples={samples} draws rows at random; expected a draw that can be repeated: set "
                f"data.seed, or data.shuffle=False for the first rows"
            )
        without_filter = OmegaConf.merge(data, {"filter_overlong_prompts": False})  # it would drop rows silently
        return create_rl_dataset(
            [str(file) for file in files],
            without_filter,
            self._worker.tokenizer,
            self._worker.processor,
            is_train=False,
            max_samples=samples,
        )

    def use_server(
        self, server: CompletionServer, capabilities: ServerCapabilities, sampling: dict[str, float | int | None]
    ) -> None:
        """Set the server that samples the tokens, and how."""
        self._sampling = {name: value for name, value in sampling.items() if name != "seed"}
        client = CompletionsClient(self.config, server, capabilities)
        client.tokenizer = self._worker.tokenizer
        client.seed = sampling["seed"] if sampling["temperature"] else None
        self._client = client

    async def first_request(self) -> tuple[list[int], dict[str, Any]]:
        """Check the length of every prompt; return the tokens of the first one, and the parameters of its request.

        Raises:
            PromptError: a prompt is too long, or verl can't render it.
        """
        first: RenderedPrompt | None = None
        loop = EvaluationAgentLoop.of_worker(self._worker, self._client)
        for row, prompt in enumerate(self.prompts):
            try:
                rendered = await loop.rendered(self._dataset[row])
            except ValueError as error:
                raise PromptError(f"row {row} of the data, {prompt.id}: {error}") from error
            first = first or rendered
        assert first is not None, "the dataset has rows"
        stops = first.stops
        parameters = {"stop": stops.strings, "stop_token_ids": stops.token_ids, "include_stop_str_in_output": True}
        return first.token_ids, {name: value for name, value in parameters.items() if value}

    async def __call__(self, sample: PendingSample) -> Response:
        """Grow one leaf.

        Raises:
            ServerFailed: the server did not answer.
            ServerRefused: it will not answer.
        """
        leaves: list[Leaf] = []

        async def keep(leaf: Leaf, output: AgentLoopOutput) -> None:
            leaves.append(leaf)

        is_validation.set(True)
        request = TreeRequest(1, f"{sample.prompt.id}/{sample.sample}")
        loop = EvaluationAgentLoop.of_worker(self._worker, self._client)
        await loop.grow_tree(self._sampling, request, keep, self._dataset[sample.row])
        leaf = leaves[0]
        assert leaf.stop_reason is not None, "the rollout has ended"
        # As verl's reward managers decode it (`experimental/reward_loop/reward_manager/naive.py`).
        written = self._worker.tokenizer.decode(leaf.token_ids, skip_special_tokens=True)
        return Response(
            output=whole_response(written, None, loop.response_prefix, is_guessed=False),
            calls=[CallRecord(call.name, call.status, round(call.latency_seconds, 3)) for call in leaf.calls],
            generated_tokens=sum(leaf.response_mask),
            response_tokens=leaf.length,
            stop_reason=leaf.stop_reason.value,
        )

    @property
    def vocabulary(self) -> int:
        """The number of the model's tokens: those of its tokenizer, or the rows of its embedding, which may be more."""
        text = getattr(self._worker.model_config.hf_config, "text_config", self._worker.model_config.hf_config)
        rows = getattr(text, "vocab_size", 0)
        return max(len(self._worker.tokenizer), rows if isinstance(rows, int) else 0)

    @property
    def answers_cut(self) -> int:
        """The number of answers that were cut to `max_tokens` tokens, of a server that gives text alone."""
        return getattr(self._client, "answers_cut", 0)

    @property
    def tools(self) -> list[str]:
        return [tool.name for tool in self._worker.tools]


@contextlib.contextmanager
def _without_console_output() -> Iterator[None]:
    """Suppress what verl prints, and the progress bars of `datasets`."""
    had_none = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        if not had_none:
            datasets.enable_progress_bars()


def _load_worker(config: DictConfig) -> AgentLoopWorker:
    """Return verl's own worker, which loads tokenizer, templates and tools; it runs nothing here."""
    model, multi_turn = config.actor_rollout_ref.model.path, config.actor_rollout_ref.rollout.multi_turn
    check_format(multi_turn.format)
    try:
        return AgentLoopWorker(config, LLMServerClient(config))
    except (InstantiationException, OmegaConfBaseException, OSError, TypeError, AttributeError, ImportError) as error:
        raise ValueError(
            f"verl can't load the tokenizer of actor_rollout_ref.model.path={model!r}, or the tools of "
            f"{[path for path in (multi_turn.tool_config_path, multi_turn.function_tool_path) if path]}: {error}; "
            f"expected a model's folder or its name on the Hub, a verl tool list, and every variable that the list "
            f"names set: override them"
        ) from error


def validation_sampling(config: DictConfig) -> dict[str, float | int | None]:
    """Return the sampling parameters of verl's validation (`trainer/ppo/v1/agent_loop_tq.py`)."""
    values = config.actor_rollout_ref.rollout.val_kwargs
    return {
        "temperature": float(values.temperature),
        "top_p": float(values.top_p),
        "top_k": int(values.top_k),
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }


def limits(config: DictConfig) -> dict[str, Any]:
    """Return the limits on a response, by their names in the configuration."""
    multi_turn, rollout = config.actor_rollout_ref.rollout.multi_turn, config.actor_rollout_ref.rollout
    keys = ("max_user_turns", "max_assistant_turns", "max_parallel_calls", "max_tool_response_length",
            "tool_response_truncate_side")  # fmt: skip
    return {
        "max_prompt_length": rollout.prompt_length,
        "max_response_length": rollout.response_length,
        "max_model_len": rollout.max_model_len,
        "max_tool_calls": arpo_config(config).max_tool_calls,
        **{key: multi_turn[key] for key in keys},
    }


def call_format(config: DictConfig) -> dict[str, Any]:
    """Return the format of calls and results."""
    name = config.actor_rollout_ref.rollout.multi_turn.format
    if name != TAG_FORMAT:
        return {"format": name}
    arpo = arpo_config(config)
    return {
        "format": name,
        "tag_open": arpo.tag_open,
        "tag_close": arpo.tag_close,
        "result_template": arpo.result_template,
    }


def tool_files(config: DictConfig) -> list[DataFile]:
    """Return the files that define the tools."""
    multi_turn = config.actor_rollout_ref.rollout.multi_turn
    paths = [multi_turn.tool_config_path, multi_turn.function_tool_path]
    return [fingerprint(Path(resolve_config_path(path))) for path in paths if path]


def versions(*distributions: str) -> dict[str, str]:
    """Return the versions of installed distributions."""
    return {name: importlib.metadata.version(name) for name in distributions}
