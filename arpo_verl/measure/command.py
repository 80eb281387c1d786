"""Should this model branch on this task, how, and what will it save? Measured before training, in words.

    arpo-verl measure RUN                               the record of a run: its folder, or a file of its record
    arpo-verl measure data.train_files=... actor_rollout_ref.model.path=... ...

The second takes the overrides that you give to `python -m verl.trainer.main_ppo`, grows trees for the first --prompts
of the training data by the rollout and the reward of that training, trains nothing, and measures their record. Forks
are drawn at random there, whatever rule the overrides name, so that what is measured holds for any.

Of a run that trains, give steps whose policies differ little: all that are read count as one policy (--last).
Exit code: 0 measured, 1 it can't be, 2 it was asked wrongly.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from arpo_verl.measure.live import RunFailed, grow_trees
from arpo_verl.measure.live_settings import LiveOptions, WrongWords
from arpo_verl.measure.measurement import Measurement, measure
from arpo_verl.measure.recommendation import recommend
from arpo_verl.measure.report import print_report, write_json
from arpo_verl.preflight.compose import PRESET
from arpo_verl.record import RecordedPrompt, read_step, step_files

NAME = "arpo-verl measure"
FIGURES = (".svg", ".png")
WIDTH = 120
"""Characters of a line where the output is no terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN | KEY=VALUE",
        help="the record of a run, or overrides as for verl; the options below go before or after all of them",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all numbers there")
    parser.add_argument("--figure", metavar="FILE", type=Path, help="draw them: .svg or .png")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default 0)")
    parser.add_argument("--last", metavar="STEPS", type=int, help="of a record, the last steps alone")
    live = parser.add_argument_group("with overrides")
    live.add_argument("--prompts", type=int, default=64, help="how many to grow trees for, at least (default 64)")
    live.add_argument("--keep", metavar="FOLDER", type=Path, help="keep record and log there; it must be empty or new")
    live.add_argument(
        "--config-path", "-cp", default=PRESET[0], help="absolute, or pkg://package (default: the preset)"
    )
    live.add_argument("--config-name", "-cn", default=PRESET[1], help="default: the preset")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, write what was asked for, and return the exit code."""
    problem = _problem(arguments)
    if problem:
        return _report(problem, 2)
    try:
        measurement = measure(_prompts(arguments), arguments.seed)
        _show(measurement, arguments)
    except WrongWords as error:
        return _report(str(error), 2)
    except (OSError, ValueError, RunFailed) as error:
        return _report(str(error), 1)
    except KeyboardInterrupt:
        return _report("interrupted; nothing was measured", 1)
    return 0


def _problem(arguments: argparse.Namespace) -> str | None:
    """Return what is wrong with the options, in words."""
    if not _has_overrides(arguments) and len(arguments.words) > 1:
        return f"{len(arguments.words)} runs; expected one, or overrides such as data.train_files=FILE: measure one"
    if arguments.figure is not None and arguments.figure.suffix not in FIGURES:
        return f"--figure={arguments.figure}; expected a file that ends in {' or '.join(FIGURES)}: rename it"
    if arguments.last is not None and arguments.last < 1:
        return f"--last={arguments.last}; expected 1 or more: correct it"
    for file in (arguments.json, arguments.figure):
        if file is not None and not file.parent.is_dir():
            return f"{file.parent} is not there; expected the folder of {file.name}: make it, or correct the path"
    return None


def _has_overrides(arguments: argparse.Namespace) -> bool:
    first = arguments.words[0]
    return "=" in first and not Path(first).exists()


def _prompts(arguments: argparse.Namespace) -> list[RecordedPrompt]:
    """Return the prompts to measure; what of their files can't be read is named and left out."""
    if _has_overrides(arguments):
        options = LiveOptions(
            tuple(arguments.words), arguments.config_path, arguments.config_name, arguments.prompts, arguments.keep
        )
        return grow_trees(options, lambda line: print(f"{NAME}: {line}", file=sys.stderr))
    found: list[RecordedPrompt] = []
    for file in list(step_files(Path(arguments.words[0])).values())[-(arguments.last or 0) :]:
        step = read_step(file)
        for problem in step.problems:
            print(f"{NAME}: left out: {problem}", file=sys.stderr)
        found += step.prompts
    return found


def _show(measurement: Measurement, arguments: argparse.Namespace) -> None:
    recommendation = recommend(measurement)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    print_report(measurement, recommendation, console)
    if arguments.json is not None:
        write_json(measurement, recommendation, arguments.json)
    if arguments.figure is not None:
        from arpo_verl.measure.figure import save_figure  # matplotlib is an extra, and takes a second to import

        save_figure(measurement, arguments.figure)


def _report(message: str, code: int) -> int:
    print(f"{NAME}: {message}", file=sys.stderr)
    return code
