"""Scores a run's file with its judgements, the training's own reward and its check of mathematics."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from arpo_verl.evaluation.judge.judgements import Judge, choose_judge, judgement_path, read_judgements
from arpo_verl.evaluation.records import Run, SampleRecord, read_run
from arpo_verl.evaluation.score.scoring import ScoredRun, Scorers, score_run
from arpo_verl.reward.math_check import MathChecker
from arpo_verl.reward.score import Score, compute_score


@dataclass(frozen=True)
class ScoredFile:
    """A scored run, and the judge whose verdicts were used."""

    run: ScoredRun
    judge: Judge | None


def score_file(
    path: Path, judge_model: str | None = None, measure: str | None = None, run: Run | None = None
) -> ScoredFile:
    """Score a run's file.

    Args:
        path: the run's file; verdicts are read from the judge's file beside it, if there is one.
        judge_model: the model whose verdicts count, where several have judged.
        measure: the accuracy of all data sources; None: each its own.
        run: the content of the file, where it has been read already.

    Raises:
        OSError: the run's file can't be read.
        ValueError: one of the files is not what it should be, or what is asked for is not in it.
    """
    run = read_run(path) if run is None else run
    judgements = read_judgements(judgement_path(path))
    judge = choose_judge(judgements, judge_model, judgement_path(path))
    verdicts = {one.case: one.verdict for one in judgements if one.judge == judge}
    checker = MathChecker()
    try:
        return ScoredFile(score_run(run, Scorers(cache(checker.check), _reward, verdicts, measure)), judge)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    finally:
        checker.close()


def _reward(sample: SampleRecord) -> Score:
    return compute_score(sample.data_source, sample.output, sample.truths, sample.extra)
