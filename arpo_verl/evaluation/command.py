"""Evaluate a model with the tools, limits, prompts and parser of its training.

  run      ask the model and write its samples to a file
  score    compute metrics from such files
  judge    let a model judge the answers
  compare  two runs, with a paired bootstrap

Each has its own --help.
"""

import argparse
import importlib

ACTIONS = {
    action: f"arpo_verl.evaluation.{module}"
    for action, module in (
        ("run", "run.command"),
        ("score", "score.command"),
        ("judge", "judge.command"),
        ("compare", "score.compare_command"),
    )
}
"""Modules with `add_arguments(parser)` and `run(arguments) -> int`, imported only when they are asked for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=ACTIONS, help="what to do")
    parser.add_argument("argv", nargs=argparse.REMAINDER, metavar="...", help="its arguments")


def run(arguments: argparse.Namespace) -> int:
    """Run an action and return its exit code."""
    module = importlib.import_module(ACTIONS[arguments.action])
    parser = argparse.ArgumentParser(
        prog=f"arpo-verl eval {arguments.action}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    # Intermixed, because Hydra overrides may stand between the options.
    exit_code: int = module.run(parser.parse_intermixed_args(arguments.argv))
    return exit_code
