"""Export a run's rollouts as traces of OpenTelemetry, one a prompt.

RUN is what `arpo-verl view` takes. Needs the extra `traces`: `pip install 'arpo-verl[traces]'`.

    arpo-verl export-traces RUN --out traces.jsonl                        # OTLP's JSON, a line a prompt
    arpo-verl export-traces RUN --endpoint http://localhost:4318          # OTLP over HTTP
    arpo-verl export-traces RUN --step 3 --trees 4 --endpoint URL         # of step 3, the four that say most

Without --out and --endpoint, OTEL_EXPORTER_OTLP_ENDPOINT says where to. The other variables of the exporter hold too:
OTEL_EXPORTER_OTLP_HEADERS (keys of a service), _TIMEOUT, _CERTIFICATE, _COMPRESSION, OTEL_RESOURCE_ATTRIBUTES.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from arpo_verl import __version__
from arpo_verl.record import RecordedPrompt, RecordedStep
from arpo_verl.record.forks import most_telling
from arpo_verl.traces.spans import SpanSettings, spans_of_prompt
from arpo_verl.viewer.sources import Source, source_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

NAME = "export-traces"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("record", metavar="RUN", type=Path, help="what to export")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", metavar="FILE", type=Path, help="write JSON lines there")
    where.add_argument("--endpoint", metavar="URL", help="send there; /v1/traces is added to a server's bare address")
    parser.add_argument("--step", metavar="N", type=int, nargs="+", help="these steps; by default all")
    parser.add_argument("--trees", metavar="N", type=int, help="of each step, the N whose rewards differ most")
    parser.add_argument("--model", metavar="NAME", default="policy", help="what the model is called (default policy)")
    parser.add_argument("--without-texts", action="store_true", help="no prompts, outputs, arguments and results")


def run(arguments: argparse.Namespace) -> int:
    """Export the traces; return 0, 1 where something is wrong, 2 where it was asked wrongly."""
    if arguments.trees is not None and arguments.trees < 1:
        return _report(f"--trees={arguments.trees}; expected 1 or more: correct it", 2)
    if missing := _missing_package():
        return _report(f"{missing} is not installed; expected it for traces: pip install 'arpo-verl[traces]'", 1)
    try:
        source = source_of(arguments.record)
        steps = _chosen_steps(source, arguments.step)
    except (OSError, ValueError) as error:
        return _report(str(error), 1)
    return _write(steps, arguments) if arguments.out else _send(steps, arguments)


def _missing_package() -> str:
    """Return the first package that can't be imported, or an empty text."""
    for name, package in {
        "opentelemetry.sdk": "opentelemetry-sdk",
        "opentelemetry.exporter.otlp.proto.http": "opentelemetry-exporter-otlp-proto-http",
    }.items():
        try:
            is_there = find_spec(name) is not None
        except ImportError:  # of a package above it
            is_there = False
        if not is_there:
            return package
    return ""


class _Traces:
    """Makes the traces of steps, and counts them."""

    def __init__(self, steps: Iterator[tuple[RecordedStep, float]], arguments: argparse.Namespace) -> None:
        # The SDK takes half a second to import; who asks for help does not wait for it.
        from arpo_verl.traces.otlp import SdkSpans

        self._steps, self._arguments = steps, arguments
        self._sdk = SdkSpans(__version__)
        self.traces = self.spans = 0

    def each(self) -> Iterator[list["ReadableSpan"]]:
        """Yield the spans of each prompt.

        Raises:
            ValueError: there is no prompt.
        """
        for step, began in self._steps:
            settings = SpanSettings(step.step, began, self._arguments.model, not self._arguments.without_texts)
            for prompt in self._prompts(step):
                spans = self._sdk.of(spans_of_prompt(prompt, settings))
                self.traces, self.spans = self.traces + 1, self.spans + len(spans)
                yield spans
        if not self.traces:
            raise ValueError(f"{self._arguments.record} has no prompt that can be read; expected one to export")

    def _prompts(self, step: RecordedStep) -> list[RecordedPrompt]:
        if self._arguments.trees is None:
            return list(step.prompts)
        return most_telling(step.prompts, self._arguments.trees)

    def counted(self) -> str:
        return f"{self.traces} traces of {self.spans} spans"


def _chosen_steps(source: Source, numbers: list[int] | None) -> Iterator[tuple[RecordedStep, float]]:
    """Return the steps that are asked for, with when each began.

    Raises:
        ValueError: one is not there.
    """
    files = source.files()
    absent = [number for number in numbers or () if number not in files]
    if absent:
        there = f"{min(files)} to {max(files)}"
        raise ValueError(f"{source.path} has no step {absent[0]}; expected one of those that there are, {there}")

    def steps() -> Iterator[tuple[RecordedStep, float]]:
        for number, file in files.items():
            if numbers is None or number in numbers:
                step = source.read(number, file)
                for problem in step.problems:
                    print(f"arpo-verl {NAME}: left out: {problem}", file=sys.stderr)
                # Verl's own rows and evaluations have no times.
                yield step, step.began or file.stat().st_mtime

    return steps()


def _write(steps: Iterator[tuple[RecordedStep, float]], arguments: argparse.Namespace) -> int:
    from arpo_verl.traces.otlp import json_line

    traces = _Traces(steps, arguments)
    path = arguments.out
    draft = path.with_name(f"{path.name}.draft")
    try:
        with draft.open("wb") as file:
            for spans in traces.each():
                file.write(json_line(spans))
        os.replace(draft, path)
    except (OSError, ValueError) as error:
        draft.unlink(missing_ok=True)
        return _report(str(error), 1)
    print(f"{path}: {traces.counted()}")
    return 0


def _send(steps: Iterator[tuple[RecordedStep, float]], arguments: argparse.Namespace) -> int:
    from arpo_verl.traces.otlp import requests_of
    from arpo_verl.traces.sending import NotSent, Sender, endpoint_of, shown, timeout_of

    try:
        endpoint, seconds = endpoint_of(arguments.endpoint, os.environ), timeout_of(os.environ)
    except ValueError as error:
        return _report(str(error), 2)
    traces, sent = _Traces(steps, arguments), 0
    try:
        with Sender(endpoint, seconds) as sender:
            for spans in traces.each():
                for request in requests_of(spans):
                    sender.send(request)
                sent += 1
    except NotSent as error:
        return _report(f"{shown(endpoint)} has taken {sent} traces whole and not the next one: {error}", 1)
    except (OSError, ValueError) as error:
        return _report(str(error), 1)
    print(f"{shown(endpoint)}: {traces.counted()}")
    return 0


def _report(message: str, code: int) -> int:
    print(f"arpo-verl {NAME}: {message}", file=sys.stderr)
    return code
