"""The judge's file beside a run: one line a reply, unparsed. Scoring reads it, and no case in it is judged again.

Lines are independent, so that several judges and several versions of a run may share a file. The verdict in a line is
for human readers: it is parsed from the reply again each time.
"""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from arpo_verl.evaluation.judge.prompt import Case
from arpo_verl.evaluation.judge.reply import Verdict, read_verdict
from arpo_verl.evaluation.records import whole_lines


@dataclass(frozen=True)
class Judge:
    """A model and the digest of its prompt. Verdicts of different judges are never mixed."""

    model: str
    prompt_hash: str


@dataclass(frozen=True)
class Judgement:
    """One reply of a judge."""

    judge: Judge
    case: Case
    reply: str

    @property
    def verdict(self) -> Verdict:
        return read_verdict(self.reply)


def judgement_path(run_path: Path) -> Path:
    """Return the judge's file of a run: RUN.judge.jsonl for RUN.jsonl."""
    return run_path.with_name(f"{run_path.name.removesuffix('.jsonl')}.judge.jsonl")


def read_judgements(path: Path) -> list[Judgement]:
    """Return the judgements of a file's whole lines; an incomplete last line is ignored, and a missing file is empty.

    Raises:
        ValueError: a whole line is not a judgement.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return [_parsed(line, f"{path}, line {number}") for number, line in enumerate(whole_lines(content), start=1)]


def choose_judge(judgements: list[Judgement], model: str | None, path: Path) -> Judge | None:
    """Return the judge whose verdicts count: that model or the only one, with the latest prompt; None if there is none.

    Raises:
        ValueError: several models have judged and none is named, or the named one has judged nothing.
    """
    models = sorted({judgement.judge.model for judgement in judgements})
    if model is None and len(models) > 1:
        raise ValueError(f"{path} has the verdicts of {', '.join(models)}; expected one judge: name it with --judge")
    if model is not None and model not in models:
        raise ValueError(f"{path} has no verdict of {model!r}, but of {models}: judge with it, or name another --judge")
    judges = [judgement.judge for judgement in judgements if model in (None, judgement.judge.model)]
    return judges[-1] if judges else None


class JudgementFile:
    """The file, locked for appending by one process."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def append(self, judgement: Judgement) -> None:
        line = {
            "judge": judgement.judge.model,
            "prompt_hash": judgement.judge.prompt_hash,
            "question": judgement.case.question,
            "truths": judgement.case.truths,
            "prediction": judgement.case.prediction,
            "verdict": judgement.verdict.value,
            "reply": judgement.reply,
        }
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()


@contextlib.contextmanager
def open_for_appending(path: Path) -> Iterator[JudgementFile]:
    """Open and lock a file for appending. An incomplete last line is cut off.

    Raises:
        ValueError: another process holds it.
    """
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{path} is being written by another process: wait for its end") from None
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        yield JudgementFile(file)


def _parsed(line: bytes, where: str) -> Judgement:
    try:
        fields = json.loads(line)
        case = Case(_text(fields["question"]), tuple(map(_text, fields["truths"])), _text(fields["prediction"]))
        judge = Judge(_text(fields["judge"]), _text(fields["prompt_hash"]))
        return Judgement(judge, case, _text(fields["reply"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{where}: got {line[:80]!r}; expected a judgement ({error!r}): remove the line, or the file to judge anew"
        ) from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value
