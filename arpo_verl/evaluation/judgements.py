"""The judge's file beside a run: one line a reply, raw. It is what scoring reads and what saves asking twice.

A line stands for itself, so that lines of several judges and of several versions of a run may share a file. The verdict
in it is for human eyes: it is read from the reply again each time.
"""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from arpo_verl.evaluation.judge import Case, Verdict, read_verdict
from arpo_verl.evaluation.records import whole_lines


@dataclass(frozen=True)
class Judge:
    """Who judged, and what it was asked. Its verdicts are never mixed with another's."""

    model: str
    prompt_hash: str


@dataclass(frozen=True)
class Judgement:
    """One reply."""

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
    """Return what the whole lines of a file say; a torn last line is not read, and a file that is not there is empty.

    Raises:
        ValueError: a whole line is no judgement.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return [_parsed(line, f"{path}, line {number}") for number, line in enumerate(whole_lines(content), start=1)]


def only_judge(judgements: list[Judgement], model: str | None, path: Path) -> Judge | None:
    """Return whose verdicts count: of that model, or of the only one; the latest wording of the prompt; None if none.

    Raises:
        ValueError: it is not clear which, or the model has judged nothing.
    """
    models = sorted({judgement.judge.model for judgement in judgements})
    if model is None and len(models) > 1:
        raise ValueError(f"{path} has the verdicts of {', '.join(models)}; expected one judge: name it with --judge")
    if model is not None and model not in models:
        raise ValueError(f"{path} has no verdict of {model!r}, but of {models}: judge with it, or name another --judge")
    judges = [judgement.judge for judgement in judgements if model in (None, judgement.judge.model)]
    return judges[-1] if judges else None


class JudgementFile:
    """The file, held for appending by one process."""

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
def appending(path: Path) -> Iterator[JudgementFile]:
    """Hold a file for appending. What a killed process left of a line is cut off.

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
        raise TypeError(f"{value!r} is no text")
    return value
