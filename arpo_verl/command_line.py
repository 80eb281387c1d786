"""The console script `arpo-verl`. Each subcommand is a module with `add_arguments(parser)` and `run(arguments) -> int`.

The module of a subcommand is imported only when it is asked for, so that `arpo-verl --help` does not wait for torch.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "doctor": ("arpo_verl.doctor.command", "check this machine, the tools and the data of a run"),
    "data": ("arpo_verl.data.command", "convert datasets to verl parquet, and validate them"),
    "eval": ("arpo_verl.evaluation.command", "evaluate a model with the tools of its training"),
    "export": ("arpo_verl.integration.export", "turn a checkpoint of verl's into a Hugging Face model"),
}
"""(module, one line of help) of each subcommand."""


def main(words: Sequence[str] | None = None) -> None:
    """Run a subcommand and exit with its code: 0 success, 1 something is wrong, 2 it was asked wrongly."""
    words = list(sys.argv[1:] if words is None else words)
    parser = argparse.ArgumentParser(prog="arpo-verl", description="Agentic Reinforced Policy Optimization for verl.")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module_name, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary)
        if words[:1] == [name]:
            module = importlib.import_module(module_name)
            subparser.description = module.__doc__
            subparser.formatter_class = argparse.RawDescriptionHelpFormatter
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    arguments = parser.parse_args(words)
    sys.exit(arguments.run(arguments))
