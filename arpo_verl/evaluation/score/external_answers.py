"""Reads answers that another program generated, as a run that can be scored, judged and compared.

The file is JSON lines (or a JSON array, CSV or parquet), one answer a line:

| key        | what it holds                                                                                    |
|------------|--------------------------------------------------------------------------------------------------|
| `id`       | the prompt: the benchmark's `extra_info.id`, with or without its data source, or its `index`     |
| `question` | the prompt's last user message, instead of `id`; white space and case do not count               |
| `answer`   | the final answer alone, a text or a number; null or empty: there is none                         |
| `output`   | the whole response instead; its last `<answer>` counts, else its last `\\boxed{}`, else all of it |
| `sample`   | the number of the sample, from 0, where a prompt has several; 0 without it                       |

A prompt without a line counts as wrong.
"""

import importlib.metadata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from arpo_verl.data.checks import RowNeeds
from arpo_verl.data.fields import RowError
from arpo_verl.data.rows import READABLE, check_file
from arpo_verl.data.source import file_rows, is_readable
from arpo_verl.evaluation.data_files import Prompt, fingerprint, prompts_of
from arpo_verl.evaluation.records import ANOTHER_PROGRAM, ERROR, FROM_TEXT, Run, RunHeader, SampleRecord
from arpo_verl.reward.accepted import answer_text, short_repr
from arpo_verl.reward.answer import extract_boxed

ANSWER, OUTPUT = "answer", "output"
NO_LINE = "the file has no answer to it"
"""The `error` of a sample without a line."""
_SHOWN = 5
_MOST_SAMPLES = 10_000
"""The number of answers to one prompt."""
_ENDED = "completed"


@dataclass(frozen=True)
class _Benchmark:
    prompts: list[Prompt]
    names: Mapping[str, list[int]]
    """The numbers of the prompts that a line may mean by a name."""
    questions: Mapping[str, list[int]]


@dataclass
class _Faults:
    """The faults of the lines, by kind."""

    lines: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, line: str) -> None:
        self.lines.setdefault(kind, []).append(line)

    def refuse(self, path: Path) -> None:
        """Raise ValueError if there is one."""
        if not self.lines:
            return
        parts = [f"{path} can't be scored:"]
        for kind, lines in self.lines.items():
            more = [f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
            parts.append("\n  ".join([f"{len(lines)} {kind}:", *lines[:_SHOWN], *more]))
        raise ValueError("\n".join(parts))


def read_external_answers(path: Path, data: Sequence[Path]) -> Run:
    """Return the answers of a file as a run of the benchmark's rows.

    Args:
        path: the answers.
        data: the benchmark, in verl's columns.

    Raises:
        ValueError: a line is not an answer, its prompt is unknown or ambiguous, a sample is there twice, or the
            benchmark is not what a run needs; the message names the lines, and what to change.
        OSError: a file can't be read.
    """
    if not is_readable(path):
        raise ValueError(f"{path}: expected a file of answers in .jsonl, .json, .csv or .parquet: convert it")
    benchmark = _benchmark(data)
    faults = _Faults()
    samples: dict[tuple[int, int], str] = {}
    for number, row in file_rows(path):
        found = _parsed(f"line {number}", row, benchmark, faults)
        if found is None:
            continue
        key, output = found
        if key in samples:
            kind = "duplicate answers; expected one a prompt: remove them, or number them by `sample`: 0, 1, ..."
            faults.add(kind, f"line {number}: {benchmark.prompts[key[0]].id!r}, sample {key[1]}, is there already")
        samples[key] = output
    faults.refuse(path)
    if not samples:
        raise ValueError(f"{path} has no answer; expected one a line, with `id` or `question`, and `{ANSWER}`")
    n = 1 + max(sample for _, sample in samples)
    records = [
        _record(prompt, sample, samples.get((number, sample)))
        for number, prompt in enumerate(benchmark.prompts)
        for sample in range(n)
    ]
    return Run(_header(path, data, len(benchmark.prompts), n), records)


def _benchmark(data: Sequence[Path]) -> _Benchmark:
    rows: list[Mapping[str, Any]] = []
    for path in data:
        if path.suffix not in READABLE:
            raise ValueError(f"--data {path}; expected a benchmark in {', '.join(READABLE)}: `arpo-verl data convert`")
        check_file(path, RowNeeds())
        is_parquet = path.suffix == ".parquet"
        rows += pq.read_table(path).to_pylist() if is_parquet else [row for _, row in file_rows(path)]  # type: ignore[misc]
    prompts = prompts_of(rows, "prompt")
    questions: dict[str, list[int]] = {}
    for number, prompt in enumerate(prompts):
        questions.setdefault(_normalized(prompt.question), []).append(number)
    return _Benchmark(prompts, _names(prompts, rows), questions)


def _names(prompts: Sequence[Prompt], rows: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Return the names of the prompts; a name of an earlier kind takes precedence over one of a later kind."""

    def own_id(number: int) -> Any:
        return (rows[number].get("extra_info") or {}).get("id")

    kinds: tuple[Callable[[int], Any], ...] = (
        lambda number: prompts[number].id,
        own_id,
        lambda number: str(own_id(number) or "").removeprefix(f"{prompts[number].data_source}/"),
        lambda number: (rows[number].get("extra_info") or {}).get("index"),
    )
    names: dict[str, list[int]] = {}
    for name_of in kinds:
        of_this_kind: dict[str, list[int]] = {}
        for number in range(len(prompts)):
            name = name_of(number)
            if name not in (None, ""):
                of_this_kind.setdefault(str(name), []).append(number)
        names = {**of_this_kind, **names}
    return names


def _normalized(text: str) -> str:
    return " ".join(text.split()).casefold()


def _parsed(
    where: str, row: Mapping[Any, Any] | RowError, benchmark: _Benchmark, faults: _Faults
) -> tuple[tuple[int, int], str] | None:
    """Return a line's prompt and sample, and its response, or None where it has a fault."""
    try:
        if isinstance(row, RowError):
            raise row
        output = _output(row)
        sample = _sample(row.get("sample"))
    except RowError as error:
        faults.add("lines are no answers", f"{where}: {error}")
        return None
    named, asked = row.get("id"), row.get("question")
    found = [] if named in (None, "") else benchmark.names.get(str(answer_text(named) or named), [])
    if not found and isinstance(asked, str):
        found = benchmark.questions.get(_normalized(asked), [])
    called = f"id {short_repr(named)}" if named not in (None, "") else f"question {short_repr(asked)}"
    if len(found) == 1:
        return (found[0], sample), output
    if named in (None, "") and asked in (None, ""):
        keys = ", ".join(map(str, row)) or "no key"
        faults.add("lines name no prompt; expected `id` or `question` in each: add it", f"{where}: got {keys}")
    elif found:
        ids = " and ".join(repr(benchmark.prompts[one].id) for one in found[:2])
        faults.add("lines name several prompts; expected one: use the whole id", f"{where}: {called} is {ids}")
    else:
        first = benchmark.prompts[0]
        expected = f"expected the benchmark's, such as {first.id!r}: is --data the right file?"
        faults.add(f"lines name unknown prompts; {expected}", f"{where}: {called}")
    return None


def _sample(value: Any) -> int:
    if value in (None, ""):
        return 0
    text = answer_text(value) or ""
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) < _MOST_SAMPLES):
        raise RowError(f"`sample` is {short_repr(value)}; expected a number from 0 to {_MOST_SAMPLES - 1}")
    return int(text)


def _output(row: Mapping[Any, Any]) -> str:
    r"""Return the response of a line; one without the answer's tags is put into them."""
    key = next((key for key in (ANSWER, OUTPUT) if key in row), None)
    if key is None:
        keys = ", ".join(map(str, row)) or "no key"
        raise RowError(f"got the keys {keys}; expected `{ANSWER}` with the final answer, or `{OUTPUT}` with all of it")
    value = row[key]
    text = "" if value is None else answer_text(value)
    if text is None or isinstance(value, bool):
        raise RowError(f"`{key}` is {short_repr(value)}; expected a text or a number")
    if not text or "</answer>" in text:
        return text
    boxed = extract_boxed(text)
    answer = text if boxed is None else boxed
    in_a_box = f"\\boxed{{{answer}}}"
    return f"<answer>{in_a_box if extract_boxed(in_a_box) == answer else answer}</answer>"


def _record(prompt: Prompt, sample: int, output: str | None) -> SampleRecord:
    return SampleRecord(
        id=prompt.id,
        sample=sample,
        data_source=prompt.data_source,
        ability=prompt.ability,
        question=prompt.question,
        truths=prompt.truths,
        output=output or "",
        calls=[],
        generated_tokens=0,
        response_tokens=0,
        stop_reason=ERROR if output is None else _ENDED,
        error=NO_LINE if output is None else None,
        seconds=0.0,
        extra=prompt.extra,
    )


def _header(path: Path, data: Sequence[Path], prompts: int, n: int) -> RunHeader:
    return RunHeader(
        model=path.stem,
        tokenizer="",
        weights=None,
        base_url=None,
        token_ids=FROM_TEXT,
        sampling={},
        limits={},
        call_format={},
        tools=[],
        tool_files=[],
        overrides=[],
        config=ANOTHER_PROGRAM,
        data=[fingerprint(one) for one in data],
        prompts=prompts,
        n=n,
        versions={"arpo-verl": importlib.metadata.version("arpo-verl")},
    )


def missing_prompts(run: Run) -> list[str]:
    """Return the ids of prompts without any line."""
    lines = Counter(sample.id for sample in run.samples if sample.error != NO_LINE)
    return [one for one in dict.fromkeys(sample.id for sample in run.samples) if not lines[one]]
