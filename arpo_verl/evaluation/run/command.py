"""Ask a model for samples and write them to a JSONL file, with the tools, limits, prompts and parser of its training.

The arguments after the options are the Hydra overrides of the training command:

  arpo-verl eval run --data validation.parquet --out run.jsonl --base-url http://host:8000 --model NAME \\
      --n 4 --temperature 0.6 arpo.max_tool_calls=10 data.max_response_length=4096

The same command again goes on where the last one stopped. Where no option says otherwise, sampling is that of verl's
validation, actor_rollout_ref.rollout.val_kwargs: greedy, unless that is overridden. The server's key is read from
OPENAI_API_KEY.
"""

import argparse
import asyncio
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from arpo_verl.data.checks import RowNeeds
from arpo_verl.data.rows import READABLE, check_file
from arpo_verl.evaluation.data_files import fingerprint, weights_fingerprint
from arpo_verl.evaluation.records import FROM_SERVER, FROM_TEXT, RunHeader
from arpo_verl.evaluation.run.completions import CompletionServer, Endpoint, RequestTimeouts, ServerCapabilities
from arpo_verl.evaluation.run.local_server import LocalServer, ServerEnded, free_port, local_server
from arpo_verl.evaluation.run.progress import RunProgress, show_progress
from arpo_verl.evaluation.run.run_file import RunFile, RunFileError, open_run_file
from arpo_verl.evaluation.run.runner import PromptError, Runner, ServerGone, pending_samples
from arpo_verl.evaluation.run.server_answers import ServerFailed, ServerRefused

if TYPE_CHECKING:
    from arpo_verl.evaluation.run.verl_agent import Rollouts

NAME = "arpo-verl eval run"
SAMPLING: dict[str, tuple[Callable[[str], float], str, Callable[[float], bool]]] = {
    "temperature": (float, "a number of at least 0; 0 is greedy", lambda value: 0 <= value < math.inf),
    "top_p": (float, "the probability mass to sample from, above 0 and at most 1", lambda value: 0 < value <= 1),
    "top_k": (int, "how many tokens to sample from, or -1 for all", lambda value: value == -1 or value >= 1),
    "min_p": (float, "the least probability, relative to the likeliest token's", lambda value: 0 <= value <= 1),
    "repetition_penalty": (float, "a number above 0; 1 is no penalty", lambda value: 0 < value < math.inf),
}
"""For each sampling option: its type, what is expected, and whether a value is valid."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", type=Path, action="append", required=True, metavar="FILE", help="verl parquet; may be given again")
    add("--out", type=Path, required=True, metavar="FILE", help="JSONL to write, or to go on with")
    add("--model", required=True, help="its name on the server; also where the tokenizer is, unless "
        "actor_rollout_ref.model.path is overridden")  # fmt: skip
    server = parser.add_mutually_exclusive_group(required=True)
    server.add_argument("--base-url", metavar="URL", help="an OpenAI-compatible server with /v1/completions")
    server.add_argument("--start-vllm", action="store_true", help="serve the model from here while the run lasts; on a "
                        "CPU with the override platform=cpu")  # fmt: skip
    add("--n", type=int, help="samples of each prompt")
    for name, (kind, help_text, _) in SAMPLING.items():
        add(f"--{name.replace('_', '-')}", type=kind, help=help_text)
    add("--seed", type=int, default=0, help="of sampling (default: 0)")
    add("--concurrency", type=int, default=64, metavar="N", help="samples in flight (default: 64)")
    add("--request-seconds", type=float, default=RequestTimeouts.request_seconds, help="time-out of a request "
        "(default: %(default)g)")  # fmt: skip
    add("--retry-seconds", type=float, default=RequestTimeouts.retry_seconds, help="how long a failing request is "
        "tried again (default: %(default)g)")  # fmt: skip
    add("--start-seconds", type=float, default=900.0, help="how long vLLM may take to start (default: 900)")
    add("--config-path", default="pkg://arpo_verl.config", help="as in the training command (default: %(default)s)")
    add("--config-name", default="arpo_trainer", help="as in the training command (default: %(default)s)")
    add("overrides", nargs="*", metavar="key=value", help="Hydra's overrides, as in the training command")


def run(arguments: argparse.Namespace) -> int:
    """Run the evaluation; return 0 if every sample is there, 1 if not, 2 if an argument is wrong."""
    logging.getLogger("stamina").setLevel(logging.ERROR)  # the progress line counts what fails
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        check_arguments(arguments)
    except ValueError as error:
        return report_error(error, 2)
    try:
        evaluation = Evaluation(arguments, console)
    except (ValueError, ServerFailed, ServerRefused) as error:
        return report_error(error, 1)
    except KeyboardInterrupt:
        return report_error("interrupted before anything was written", 128 + signal.SIGINT)
    try:
        asyncio.run(_until_signal(evaluation.run()))
    except (PromptError, ServerFailed, ServerRefused, ServerEnded, ServerGone, RunFileError) as error:
        report_error(error, 1)
        return report_error(evaluation.summary, 1) if evaluation.progress.finished else 1
    except Interrupted as error:
        report_error(error, 1)
        return report_error(evaluation.summary, error.exit_code)
    return report_error(evaluation.summary, 1 if evaluation.progress.missing else 0)


def check_arguments(arguments: argparse.Namespace) -> None:
    """Check what can be checked before anything is loaded.

    Raises:
        ValueError: an argument is wrong.
    """
    for path in arguments.data:
        if not path.is_file() or path.suffix not in READABLE:
            raise ValueError(f"--data {path}; expected a file in {', '.join(READABLE)}, which verl reads: correct it")
    if arguments.out.is_dir() or not arguments.out.resolve().parent.is_dir():
        raise ValueError(f"--out {arguments.out}; expected a file in a folder that exists: make the folder")
    for name in ("n", "concurrency", "request_seconds", "retry_seconds", "start_seconds"):
        _expect_option(name, getattr(arguments, name), "a number above 0", lambda value: value > 0)
    for name, (_, expected, is_good) in SAMPLING.items():
        _expect_option(name, getattr(arguments, name), expected, is_good)
    for override in arguments.overrides:
        if "=" not in override and not override.startswith("~"):
            raise ValueError(f"{override!r} is not an option and not a Hydra override; expected key=value: correct it")
    if arguments.base_url is not None:
        Endpoint.from_url(arguments.base_url, arguments.model)


def _expect_option(name: str, value: Any, expected: str, is_good: Callable[[Any], bool]) -> None:
    if value is not None and not is_good(value):
        raise ValueError(f"--{name.replace('_', '-')} {value}; expected {expected}: change it")


class Interrupted(Exception):
    """The process got a signal to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Evaluation:
    """One run of the command, from its arguments to the summary."""

    def __init__(self, arguments: argparse.Namespace, console: Console) -> None:
        """Find the server, then load verl, the tools and the data, which is slow.

        Raises:
            ValueError: the data or the configuration is wrong.
            ServerFailed, ServerRefused: see `CompletionServer.find_model`.
        """
        self._arguments = arguments
        self._console = console
        if arguments.base_url is not None:
            asyncio.run(self._find_model())
        if "platform=cpu" in arguments.overrides:
            os.environ.setdefault("VERL_PLATFORM", "cpu")
        self._rollouts = self._load()
        self._sampling = self._choose_sampling()
        n = arguments.n or self._rollouts.config.actor_rollout_ref.rollout.val_kwargs.n
        if n > 1 and self._sampling["temperature"] == 0:
            raise ValueError(f"--n {n} at temperature 0; expected 1 sample, as all are the same: set --temperature")
        self._samples = pending_samples(self._rollouts.prompts, n)
        self._header = self._describe(n)
        self.progress = RunProgress(len(self._samples), 0)

    async def _find_model(self) -> None:
        async with self._server(self._arguments.base_url) as server:
            await server.find_model()

    def _server(self, base_url: str, vocabulary: int | None = None) -> CompletionServer:
        arguments = self._arguments
        endpoint = Endpoint.from_url(base_url, arguments.model, os.environ.get("OPENAI_API_KEY"))
        return CompletionServer(
            endpoint, RequestTimeouts(arguments.request_seconds, arguments.retry_seconds), vocabulary
        )

    def _load(self) -> "Rollouts":
        # Imported here because verl takes seconds, which an error about an argument or the server should not wait for.
        from arpo_verl.evaluation.run.verl_agent import ConfigSource, Rollouts, compose_evaluation_config

        arguments = self._arguments
        source = ConfigSource(arguments.config_path, arguments.config_name, arguments.overrides)
        config = compose_evaluation_config(source, arguments.model)
        for path in () if config.data.custom_cls.path else arguments.data:  # a class decides what it reads
            for warning in check_file(path, RowNeeds(config.data.prompt_key)).warnings:
                self._console.print(f"note: {path}: {warning}")
        return Rollouts(config, arguments.data)

    def _choose_sampling(self) -> dict[str, float | int | None]:
        from arpo_verl.evaluation.run.verl_agent import validation_sampling

        chosen = {name: getattr(self._arguments, name) for name in SAMPLING}
        given = {name: value for name, value in chosen.items() if value is not None}
        usual: dict[str, float | int | None] = validation_sampling(self._rollouts.config)
        return usual | given | {"seed": self._arguments.seed}

    def _describe(self, n: int) -> RunHeader:
        """Return the settings that are known before the first request to the server."""
        from arpo_verl.evaluation.run.verl_agent import call_format, limits, tool_files, versions

        arguments, config = self._arguments, self._rollouts.config
        base_url = arguments.base_url and Endpoint.from_url(arguments.base_url, arguments.model).public_url
        return RunHeader(
            model=arguments.model,
            tokenizer=config.actor_rollout_ref.model.path,
            weights=weights_fingerprint(Path(config.actor_rollout_ref.model.path)) if arguments.start_vllm else None,
            base_url=base_url,
            token_ids=FROM_SERVER,
            sampling=self._sampling,
            limits=limits(config),
            call_format=call_format(config),
            tools=self._rollouts.tools,
            tool_files=tool_files(config),
            overrides=arguments.overrides,
            config=f"{arguments.config_path}/{arguments.config_name}",
            data=[fingerprint(path) for path in arguments.data],
            prompts=len(self._rollouts.prompts),
            n=n,
            versions=versions("arpo-verl", "verl", "transformers"),
        )

    def _open_file(self, gives_token_ids: bool) -> AbstractContextManager[RunFile]:
        header = replace(self._header, token_ids=FROM_SERVER if gives_token_ids else FROM_TEXT)
        return open_run_file(self._arguments.out, header, [sample.key for sample in self._samples])

    async def run(self) -> None:
        """Run the missing samples.

        Raises:
            PromptError: a prompt is too long.
            ServerFailed, ServerRefused, ServerEnded, ServerGone: the server.
            RunFileError: the file.
        """
        first_request = await self._rollouts.first_request()
        if not self._arguments.start_vllm:
            await self._ask(self._arguments.base_url, first_request)
            return
        with self._open_file(gives_token_ids=True) as file:  # its faults need not wait until vLLM is up
            self._finish(file)
        if self.progress.missing:
            with self._vllm() as server:
                with self._console.status(f"starting vLLM; its log is {server.log}"):
                    await server.wait_until_healthy(self._arguments.start_seconds)
                await run_while_healthy(server.watch(), self._ask(server.url, first_request))

    def _vllm(self) -> AbstractContextManager[LocalServer]:
        from arpo_verl.integration.serving.server import server_of

        port = free_port()
        config = self._rollouts.config
        command, environment = server_of(config).command(config, self._arguments.model, port)
        log = self._arguments.out.with_name(self._arguments.out.name + ".vllm.log")
        return local_server(command, log, environment, port)

    async def _ask(self, base_url: str, first_request: tuple[list[int], dict[str, Any]]) -> None:
        prompt, stops = first_request
        async with self._server(base_url, self._rollouts.vocabulary) as server:
            context_length = await server.find_model()
            sampling = {name: value for name, value in self._sampling.items() if value is not None}
            gives_token_ids = await server.probe(prompt, sampling | stops)
            self._rollouts.use_server(server, ServerCapabilities(gives_token_ids, context_length), self._sampling)
            with self._open_file(gives_token_ids) as file:
                self._finish(file)
                async with show_progress(self.progress, self._console):
                    await Runner(self._rollouts, file, self.progress).run(self._samples, self._arguments.concurrency)
                self._finish(file)

    def _finish(self, file: RunFile) -> None:
        """Count the samples in the file; sort the file when all are there."""
        self.progress.finished = len(file.finished)
        if not self.progress.missing:
            file.sort([sample.key for sample in self._samples])

    @property
    def summary(self) -> str:
        """The counts of the file's samples, and what to do about missing ones."""
        counts, out = self.progress, self._arguments.out
        refused = f"; the server refused {counts.refused}: {counts.last_problem}" if counts.refused else ""
        if cut := self._rollouts.answers_cut:
            refused += f"; {cut} answers had more than max_tokens tokens and were cut there"
        if not counts.missing:
            return f"{out} has all {counts.expected} samples{refused}"
        failed = f" ({counts.failed} failed: {counts.last_problem})" if counts.failed else ""
        return (
            f"{out} has {counts.finished} of {counts.expected} samples{refused}; {counts.missing} are missing{failed}: "
            f"the same command goes on with them"
        )


async def run_while_healthy(watch: Coroutine[Any, Any, None], work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end; cancel it when `watch` raises.

    Raises:
        Exception: what `watch` or `work` has raised.
    """
    tasks = [asyncio.create_task(watch), asyncio.create_task(work)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Run `work`; SIGINT and SIGTERM cancel it.

    Raises:
        Interrupted: there was a signal.
    """
    task, loop = asyncio.ensure_future(work), asyncio.get_running_loop()
    signals: list[int] = []

    def end(number: int) -> None:
        signals.append(number)
        if len(signals) == 1:  # an impatient second one must not end the cleaning up
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    try:
        await task
    except asyncio.CancelledError:
        if signals:
            raise Interrupted(signals[0]) from None
        raise


def report_error(message: object, exit_code: int) -> int:
    print(f"{NAME}: {message}", file=sys.stderr)
    return exit_code
