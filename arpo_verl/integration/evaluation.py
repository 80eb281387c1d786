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
from types import SimpleNamespace
from typing import Any

import datasets
from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, AgentLoopWorker, DictConfigWrap, ToolListWrap
from verl.experimental.agent_loop.tool_parser import ToolParser
from verl.trainer.ppo.utils import create_rl_dataset
from verl.utils.import_utils import resolve_config_path
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from arpo_verl.evaluation.completions import CompletionServer, ServerFacts
from arpo_verl.evaluation.data_files import fingerprint, prompts_of
from arpo_verl.evaluation.records import CallRecord, DataFile
from arpo_verl.evaluation.runner import PromptError, Response, Task
from arpo_verl.evaluation.server_answers import ServerMisbehaved, ServerRefused
from arpo_verl.evaluation.stops import Stopped, restore_stop
from arpo_verl.integration.agent_loop import TreeAgentLoop, TreeRequest, end_token_ids, tool_schema
from arpo_verl.integration.engine import Stops
from arpo_verl.integration.settings import FINISH_REASON, TAG_AGENT, TAG_FORMAT, arpo_config, wants_arpo
from arpo_verl.integration.tag_check import check_tags
from arpo_verl.reward.prefill import whole_response
from arpo_verl.rollout.seeds import derived_seed
from arpo_verl.rollout.tool_text import valid_text
from arpo_verl.rollout.tree import Leaf

PACKAGE_PREFIX = "pkg://"
"""Of Hydra's `--config-path`."""


@dataclass(frozen=True)
class ConfigSource:
    """Hydra's words of a training command."""

    path: str
    """`pkg://a.package`, or a folder."""
    name: str
    overrides: Sequence[str]


def compose_config(source: ConfigSource, model: str) -> DictConfig:
    """Compose verl's configuration; without an override, the model is also where the tokenizer comes from.

    Raises:
        ValueError: Hydra can't compose it.
    """
    if source.path.startswith(PACKAGE_PREFIX):
        folder = initialize_config_module(source.path.removeprefix(PACKAGE_PREFIX), version_base=None)
    else:
        folder = initialize_config_dir(str(Path(source.path).resolve()), version_base=None)
    try:
        with folder:
            config = compose(source.name, overrides=list(source.overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"{source.path}/{source.name} with {list(source.overrides)}: {error}") from error
    if not any(word.lstrip("+").startswith("actor_rollout_ref.model.path=") for word in source.overrides):
        OmegaConf.update(config, "actor_rollout_ref.model.path", model)
    agent = config.actor_rollout_ref.rollout.agent.default_agent_loop
    if agent != TAG_AGENT and not wants_arpo(config):
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

    async def first_request(self, sample: dict[str, Any]) -> tuple[list[int], Stops]:
        """Return the prompt's token ids, and where the server has to stop."""
        messages = list(sample["raw_prompt"])
        tools = self._tools_of(sample)
        _, stops = self._syntax(messages, tools)
        schemas = None if self.tool_parser_name == TAG_FORMAT else [tool_schema(tool) for tool in tools.values()]
        return list(await self.ct_build_initial_tokens(messages, tools=schemas)), stops


class Rollouts:
    """A dataset, and the rollout of each of its rows."""

    def __init__(self, config: DictConfig, files: Sequence[Path]) -> None:
        """Load tokenizer, tools and data as verl's workers and trainer do.

        Raises:
            ValueError: one of them can't be loaded.
        """
        self.config = config
        self._arpo = arpo_config(config)
        with _silence():
            self._stock = _stock_worker(config)
            check_tags(config, self._stock.tokenizer)
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
            self._stock.tokenizer,
            self._stock.processor,
            is_train=False,
            max_samples=samples,
        )

    def use(self, server: CompletionServer, facts: ServerFacts, sampling: dict[str, float | int | None]) -> None:
        """Take the tokens from a server, sampled so."""
        self._sampling = {name: value for name, value in sampling.items() if name != "seed"}
        client = _CompletionsClient(self.config, server, facts)
        client.tokenizer = self._stock.tokenizer
        client.seed = sampling["seed"] if sampling["temperature"] else None
        self._client = client

    async def first_request(self) -> tuple[list[int], dict[str, Any]]:
        """Check the length of every prompt; return the first one's tokens, and the parameters of its request.

        Raises:
            PromptError: a prompt is too long, or verl can't render it.
        """
        first: tuple[list[int], Stops] | None = None
        loop = self._agent_loop()
        for row, prompt in enumerate(self.prompts):
            try:
                request = await loop.first_request(self._dataset[row])
            except ValueError as error:
                raise PromptError(f"row {row} of the data, {prompt.id}: {error}") from error
            first = first or request
        assert first is not None, "the dataset has rows"
        ids, stops = first
        parameters = {"stop": stops.strings, "stop_token_ids": stops.token_ids, "include_stop_str_in_output": True}
        return ids, {name: value for name, value in parameters.items() if value}

    async def __call__(self, task: Task) -> Response:
        """Grow one leaf.

        Raises:
            ServerFailed: the server did not answer.
            ServerRefused: it will not answer.
        """
        leaves: list[Leaf] = []

        async def keep(leaf: Leaf, output: AgentLoopOutput) -> None:
            leaves.append(leaf)

        request = TreeRequest(1, 1, f"{task.prompt.id}/{task.sample}")
        loop = self._agent_loop()
        await loop.grow_tree(self._sampling, request, keep, self._dataset[task.row])
        leaf = leaves[0]
        assert leaf.stop_reason is not None, "the rollout has ended"
        # As verl's reward managers decode it (`experimental/reward_loop/reward_manager/naive.py`).
        written = self._stock.tokenizer.decode(leaf.token_ids, skip_special_tokens=True)
        return Response(
            output=whole_response(written, None, loop.response_prefix, is_guessed=False),
            calls=[CallRecord(call.name, call.status, round(call.latency_seconds, 3)) for call in leaf.calls],
            generated_tokens=sum(leaf.response_mask),
            response_tokens=leaf.length,
            stop_reason=leaf.stop_reason.value,
        )

    def _agent_loop(self) -> EvaluationAgentLoop:
        return EvaluationAgentLoop(
            trainer_config=DictConfigWrap(self.config),
            server_manager=self._client,
            tokenizer=self._stock.tokenizer,
            processor=self._stock.processor,
            hf_model_type=self._stock.hf_model_type,
            dataset_cls=self._stock.dataset_cls,
            data_config=DictConfigWrap(self.config.data),
            tools=ToolListWrap(self._stock.tools),
        )

    @property
    def vocabulary(self) -> int:
        """How many tokens the model has: those of its tokenizer, or the rows of its embedding, which may be more."""
        text = getattr(self._stock.model_config.hf_config, "text_config", self._stock.model_config.hf_config)
        rows = getattr(text, "vocab_size", 0)
        return max(len(self._stock.tokenizer), rows if isinstance(rows, int) else 0)

    @property
    def answers_cut(self) -> int:
        """How many answers, of a server that gives text alone, had more than `max_tokens` tokens and were cut."""
        return getattr(self._client, "answers_cut", 0)

    @property
    def tools(self) -> list[str]:
        return [tool.name for tool in self._stock.tools]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the prints of verl and the bars of `datasets` off the console."""
    had_none = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        if not had_none:
            datasets.enable_progress_bars()


def _stock_worker(config: DictConfig) -> AgentLoopWorker:
    """Return verl's own worker, which loads tokenizer, templates and tools; it does not run anything here."""
    model, multi_turn = config.actor_rollout_ref.model.path, config.actor_rollout_ref.rollout.multi_turn
    formats = sorted(ToolParser._registry)
    if multi_turn.format not in formats:
        raise ValueError(
            f"actor_rollout_ref.rollout.multi_turn.format={multi_turn.format!r}; expected one of {', '.join(formats)}: "
            f"change it"
        )
    try:
        return AgentLoopWorker(config, LLMServerClient(config))
    except (InstantiationException, OmegaConfBaseException, OSError, TypeError, AttributeError, ImportError) as error:
        raise ValueError(
            f"verl can't load the tokenizer of actor_rollout_ref.model.path={model!r}, or the tools of "
            f"{[path for path in (multi_turn.tool_config_path, multi_turn.function_tool_path) if path]}: {error}; "
            f"expected a model's folder or its name on the Hub, a verl tool list, and every variable that the list "
            f"names set: override them"
        ) from error


class _CompletionsClient(LLMServerClient):
    """verl's client with an HTTP server where verl has a Ray actor."""

    def __init__(self, config: DictConfig, server: CompletionServer, facts: ServerFacts) -> None:
        super().__init__(config)
        self._server, self._facts = server, facts
        self.tokenizer: Any = None
        self.seed: float | int | None = None
        self.answers_cut = 0
        """Texts with more of our tokens than the server was allowed to write."""

    async def _acquire_server(self, request_id: str, **extra: Any) -> tuple[str, Any]:
        async def generate(prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any) -> TokenOutput:
            return await self._complete(request_id, prompt_ids, sampling_params)

        return "", SimpleNamespace(generate=SimpleNamespace(remote=generate))

    def _release_server(self, server_id: str, request_id: str | None = None) -> None:
        """There is nothing to release."""

    async def _complete(self, request_id: str, prompt_ids: list[int], parameters: dict[str, Any]) -> TokenOutput:
        body = {key: value for key, value in parameters.items() if key not in ("logprobs", "extra_args")}
        body["max_tokens"] = self._room(prompt_ids, body["max_tokens"])
        body["return_token_ids"] = True
        if self.seed is not None:
            # The id begins with what is different in every process; the rest names prompt and sample.
            body["seed"] = derived_seed(f"{self.seed}/{request_id.partition('/')[2]}/{len(prompt_ids)}")
        if not self._facts.gives_token_ids:
            body["skip_special_tokens"] = False  # tags and calls may be made of them
        completion = await self._server.complete(prompt_ids, body)
        ids, finish_reason = completion.token_ids, completion.finish_reason
        if not self._facts.gives_token_ids:
            stopped = Stopped(completion.text, finish_reason, completion.stop_reason)
            ids = self._encoded(stopped, parameters.get("stop", []))
            if len(ids) > body["max_tokens"]:
                ids, finish_reason = ids[: body["max_tokens"]], "length"
                self.answers_cut += 1
        if ids is None:
            raise ServerMisbehaved(
                "the server gave no `token_ids` with this answer; expected them, as it gave them when the run began"
            )
        # Log-probabilities are the trainer's; evaluation has no use for them.
        return TokenOutput(
            token_ids=ids,
            log_probs=[0.0] * len(ids),
            stop_reason="completed",
            extra_fields={FINISH_REASON: finish_reason},
        )

    def _room(self, prompt_ids: list[int], asked: int) -> int:
        """Return what fits into the model's context, as verl's server does (`vllm_async_server.py`, `generate`)."""
        limit = self._facts.context_length
        if limit is None:
            return asked
        if len(prompt_ids) >= limit:
            raise ServerRefused(f"{len(prompt_ids)} tokens fill the model's context of {limit}", is_for_all=False)
        return min(asked, limit - len(prompt_ids))

    def _encoded(self, stopped: Stopped, stops: list[str]) -> list[int]:
        arpo = arpo_config(self.config)
        text, is_ended = restore_stop(stopped, stops, arpo.tag_open, arpo.tag_close)
        text = valid_text(text)  # JSON can bring lone surrogates, which no tokenizer takes
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        end = self.tokenizer.eos_token_id
        ends = end_token_ids(self.config.actor_rollout_ref.model.path, end)
        return [*ids, end] if is_ended and not (ids and ids[-1] in ends) else ids


def validation_sampling(config: DictConfig) -> dict[str, float | int | None]:
    """Return what verl samples its validation with (`trainer/ppo/v1/agent_loop_tq.py`)."""
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
    """Return how calls and results are written."""
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
    """Return the files that say which tools there are."""
    multi_turn = config.actor_rollout_ref.rollout.multi_turn
    paths = [multi_turn.tool_config_path, multi_turn.function_tool_path]
    return [fingerprint(Path(resolve_config_path(path))) for path in paths if path]


def versions(*distributions: str) -> dict[str, str]:
    """Return the versions of installed distributions."""
    return {name: importlib.metadata.version(name) for name in distributions}
