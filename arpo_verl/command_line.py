"""The console script `arpo-verl`. Each subcommand is a module with `add_arguments(parser)` and `run(arguments) -> int`.

The module of a subcommand is imported only when it is asked for, so that `arpo-verl --help` does not wait for torch.
"""

import argparse
import ast
import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

DISTRIBUTION = "arpo-verl"
COMMANDS = {
    "doctor": ("arpo_verl.doctor.command", "check this machine, the tools and the data of a run"),
    "data": ("arpo_verl.data.command", "convert datasets to verl parquet, and validate them"),
    "eval": ("arpo_verl.evaluation.command", "evaluate a model with the tools of its training"),
    "view": ("arpo_verl.viewer.command", "look at a run's trees, tokens, calls and times in a browser"),
    "plot": ("arpo_verl.figures.command", "draw figures of runs: entropy, tree, curves, calls"),
    "export-traces": ("arpo_verl.traces.command", "export a run's rollouts as traces of OpenTelemetry"),
    "measure": ("arpo_verl.measure.command", "measure whether branching pays on a task with a model"),
    "algorithms": ("arpo_verl.presets.command", "list the algorithms of the family, or show what one sets"),
    "export": ("arpo_verl.export.command", "turn a checkpoint of verl's into a Hugging Face model"),
}
"""(module, one line of help) of each subcommand."""
HELP = ("-h", "--help")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a subcommand and exit with its code: 0 success, 1 something is wrong, 2 it was asked wrongly."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="arpo-verl", description="Agentic Reinforced Policy Optimization for verl.")
    parser.add_argument("--version", action="version", version=f"{DISTRIBUTION} {version()}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module_name, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary)
        if argv[:1] == [name]:
            try:
                module = importlib.import_module(module_name)
            except ImportError as error:
                sys.exit(_without_packages(name, argv, error))
            subparser.description = module.__doc__
            subparser.formatter_class = argparse.RawDescriptionHelpFormatter
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    try:
        code = arguments.run(arguments)
    except ImportError as error:
        code = _without_packages(arguments.command, argv, error)
    sys.exit(code)


def version() -> str:
    """Return the installed version; `not installed` where only the source is there."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _without_packages(command: str, argv: list[str], error: ImportError) -> int:
    """Say which package a subcommand lacks, below what it is for where its help was asked for; return the exit code.

    Raises:
        ImportError: it is no other package's; that is a defect of this one.
    """
    package = (error.name or "").partition(".")[0]
    if not package or package.startswith(("arpo_verl", "arpo_tools", "arpo_patches")):
        raise error
    is_help = any(word in HELP for word in argv)
    if is_help:
        print(_documentation(COMMANDS[command][0]))
    print(
        f"arpo-verl {command}: the package {package} can't be imported ({error}); expected what arpo-verl requires: "
        f"install it anew: `pip install .` or `bash recipes/install.sh` in its repository",
        file=sys.stderr,
    )
    return 0 if is_help else 1


def _documentation(module_name: str) -> str:
    """Return the docstring of a module that can't be imported."""
    spec = find_spec(module_name)
    if spec is None or spec.origin is None:
        return ""
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
