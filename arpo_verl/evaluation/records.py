"""The file of a run: JSON lines, the first with the settings, then one a sample. Scoring reads nothing else.

A sample is finished when its line ends in a line feed; what a killed process has left of a line is not a sample. Lines
are in order of completion while the evaluation runs, and in the order of the dataset once all samples are there.
`MEASURED_FIELDS` alone differ between two greedy evaluations of the same model.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

RUN, SAMPLE = "run", "sample"
"""Values of the key `type`."""
FROM_SERVER, FROM_TEXT = "server", "text"
"""Values of `RunHeader.token_ids`."""
ERROR = "error"
"""The `stop_reason` of a sample without a response."""
ANOTHER_PROGRAM = "another program"
"""The `RunHeader.config` of answers that another program generated (`external_answers.py`)."""
MEASURED_FIELDS = ("seconds",)
"""The keys, of a sample and of its calls, that measure time."""


@dataclass(frozen=True)
class DataFile:
    """A dataset file of a run."""

    file: str
    sha256: str


@dataclass(frozen=True)
class RunHeader:
    """The settings of a run, resolved: defaults included."""

    model: str
    """The name by which the server knows the model."""
    tokenizer: str
    """`actor_rollout_ref.model.path`."""
    weights: str | None
    """A digest of the model's folder; None where another server has the weights, or they are not in a folder."""
    base_url: str | None
    """The server's URL, without user name and password; None where the run started vLLM itself."""
    token_ids: str
    """The source of the sampled tokens' ids: the `server`, or its `text`, which was encoded again."""
    sampling: dict[str, float | int | None]
    """temperature, top_p, top_k, min_p, repetition_penalty, seed."""
    limits: dict[str, Any]
    """verl's and ARPO's limits on tokens, turns and calls, by their names in the configuration."""
    call_format: dict[str, Any]
    """The format of calls and results, with its tags where it has some."""
    tools: list[str]
    """The tools' names."""
    tool_files: list[DataFile]
    """verl's tool list and function tools."""
    overrides: list[str]
    """The Hydra overrides of the command."""
    config: str
    """The configuration that they override, or `ANOTHER_PROGRAM`."""
    data: list[DataFile]
    prompts: int
    """The number of rows of `data` that the run asks."""
    n: int
    """The number of samples of each prompt."""
    versions: dict[str, str]
    """The versions of the packages that matter, by name."""

    @property
    def expected_samples(self) -> int:
        """The number of samples of a whole file; missing ones count as wrong."""
        return self.prompts * self.n


@dataclass(frozen=True)
class CallRecord:
    """One tool call of a sample."""

    tool: str
    status: str
    """A value of `arpo_tools.ToolStatus`."""
    seconds: float


@dataclass(frozen=True)
class SampleRecord:
    """One sample of one prompt, in plain values."""

    id: str
    """The prompt's id, unique in the file."""
    sample: int
    """The sample's number, counted from 0 for each prompt."""
    data_source: str
    ability: str
    question: str
    """The last user message."""
    truths: list[str]
    """The accepted answers."""
    output: str
    """The response as text, tool results included, without special tokens: the text that verl's reward reads, with the
    `<think>` that the chat template has opened for it."""
    calls: list[CallRecord]
    generated_tokens: int
    """The number of tokens that the model sampled."""
    response_tokens: int
    """The number of tokens of the response, tool results included."""
    stop_reason: str
    """A value of `arpo_verl.rollout.tree.StopReason`, or `error`."""
    error: str | None
    """The reason why there is no response: the server refused the request. The sample counts as wrong."""
    seconds: float
    extra: dict[str, Any]
    """The fields of the dataset row by which reports can be split, such as `level`."""

    @property
    def key(self) -> tuple[str, int]:
        return self.id, self.sample


@dataclass(frozen=True)
class Run:
    """The content of a run's file, finished or not."""

    header: RunHeader
    samples: list[SampleRecord]
    """The samples in the order of the file."""


Record = TypeVar("Record", RunHeader, SampleRecord, DataFile, CallRecord)


def read_run(path: Path) -> Run:
    """Read a run's file, finished or not.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a whole line is not a record, the first one is not a header, or two lines are of the same sample.
    """
    lines = whole_lines(path.read_bytes())
    if not lines:
        raise ValueError(f"{path} has no whole line; expected the header of a run: make it with `arpo-verl eval run`")
    header = parse_header(lines[0], f"{path}, line 1")
    samples: dict[tuple[str, int], SampleRecord] = {}
    for number, line in enumerate(lines[1:], start=2):
        sample = _parse_sample(line, f"{path}, line {number}")
        if sample.key in samples:
            raise ValueError(
                f"{path}, line {number}: sample {sample.sample} of {sample.id!r} is there already; expected it once: "
                f"remove one of the two lines"
            )
        samples[sample.key] = sample
    return Run(header, list(samples.values()))


def whole_lines(content: bytes) -> list[bytes]:
    """Return the lines that end in a line feed."""
    return content.split(b"\n")[:-1]


def line_of(record: RunHeader | SampleRecord) -> bytes:
    """Return the line of a record, line feed included."""
    kind = RUN if isinstance(record, RunHeader) else SAMPLE
    # A tool's text may hold half of a surrogate pair; `json.loads` reads it back.
    return json.dumps({"type": kind, **asdict(record)}, ensure_ascii=False).encode(errors="surrogatepass") + b"\n"


def write_run(path: Path, run: Run) -> None:
    """Write a whole run to a new file.

    Raises:
        FileExistsError: there is a file.
    """
    with path.open("xb") as file:
        file.write(line_of(run.header))
        file.writelines(map(line_of, run.samples))


def parse_header(line: bytes, where: str) -> RunHeader:
    """Return the record of a file's first line; `where` names it in an error.

    Raises:
        ValueError: it is not a header.
    """
    values = _parse(line, RUN, where)
    for key in ("data", "tool_files"):
        values[key] = [_record(DataFile, one, where) for one in _list(values, key, where)]
    return _record(RunHeader, values, where)


def _parse_sample(line: bytes, where: str) -> SampleRecord:
    values = _parse(line, SAMPLE, where)
    values["calls"] = [_record(CallRecord, one, where) for one in _list(values, "calls", where)]
    return _record(SampleRecord, values, where)


def _parse(line: bytes, kind: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}; expected a line of `arpo-verl eval run`: remove it") from error
    found = values.pop("type", None) if isinstance(values, dict) else None
    if found != kind:
        raise ValueError(
            f"{where} is of the type {found!r}; expected {kind!r}: give it a file of `arpo-verl eval run`, or another "
            f"program's answers with their benchmark (`arpo-verl eval score ANSWERS.jsonl --data FILE.parquet`)"
        )
    return dict(values)


def _list(values: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = values.get(key)
    if not isinstance(value, list):
        raise ValueError(f"{where}: {key}={value!r}; expected a list: was the file made by another version?")
    return value


def _record(kind: type[Record], values: Any, where: str) -> Record:
    expected = {field.name for field in fields(kind)}
    found = set(values) if isinstance(values, Mapping) else set()
    if found != expected:
        raise ValueError(
            f"{where} lacks {sorted(expected - found)} and has {sorted(found - expected)} beyond a {kind.__name__}; "
            f"expected just its keys: was the file made by another version?"
        )
    return kind(**values)
