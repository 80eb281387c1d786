"""Draw figures of runs from their records, as SVG or PNG.

    arpo-verl plot entropy RUN            # how uncertain the policy is around tool results, by tool
    arpo-verl plot tree RUN               # one prompt's tree; --step and --prompt choose another
    arpo-verl plot curves RUN [RUN ...]   # reward against steps, calls, tokens and seconds; seeds become a band
    arpo-verl plot calls RUN              # calls of a leaf, how they end, how long they take

RUN is what `arpo-verl view` takes. Needs matplotlib: `pip install 'arpo-verl[figures]'`.
"""

import argparse
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from arpo_verl.record import RecordedStep
from arpo_verl.viewer.sources import source_of

FORMATS = (".svg", ".png")
SUMMARIES = {
    "entropy": "how uncertain the policy is around tool results, by tool",
    "tree": "one prompt's tree, with what its forks were decided by",
    "curves": "reward against steps, calls, tokens and seconds, of one run or several",
    "calls": "calls of a leaf by step, how they end, and how long they take",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    figures = parser.add_subparsers(dest="figure", metavar="FIGURE", required=True)
    for name, summary in SUMMARIES.items():
        figure = figures.add_parser(name, help=summary, description=summary)
        figure.add_argument("records", metavar="RUN", type=Path, nargs="+" if name == "curves" else 1)
        figure.add_argument(
            "--out", metavar="FILE", type=Path, help=f".svg or .png; by default {name}.svg in RUN, or beside it"
        )
        if name == "entropy":
            figure.add_argument("--tokens", type=int, default=20, help="before and after a result (default 20)")
        if name == "tree":
            figure.add_argument("--step", type=int, help="by default the last one")
            figure.add_argument("--prompt", metavar="UID", help="by default one whose rewards differ most")


def run(arguments: argparse.Namespace) -> int:
    """Draw the figure; return 0, 1 where there is nothing to draw, 2 where it was asked wrongly."""
    out = arguments.out or _default_file(arguments.records, arguments.figure)
    if out.suffix not in FORMATS:
        return _report(f"--out={out}; expected a file that ends in {' or '.join(FORMATS)}: rename it", 2)
    if arguments.figure == "entropy" and arguments.tokens < 1:
        return _report(f"--tokens={arguments.tokens}; expected 1 or more: correct it", 2)
    if find_spec("matplotlib") is None:
        return _report("matplotlib is not installed; expected it for figures: pip install 'arpo-verl[figures]'", 1)
    try:
        _draw(arguments, out)
    except (OSError, ValueError) as error:
        return _report(str(error), 1)
    print(out)
    return 0


def _draw(arguments: argparse.Namespace, out: Path) -> None:
    # matplotlib takes a second to import; who asks for help does not wait for it.
    from arpo_verl.figures import calls, curves, entropy, tree
    from arpo_verl.figures.drawing import save
    from arpo_verl.figures.entropy_around import entropy_around_results

    records = {path: _steps(path) for path in arguments.records}
    first = next(iter(records.values()))
    if arguments.figure == "entropy":
        around = entropy_around_results(first, arguments.tokens)
        save(lambda figure: entropy.draw(figure, around), entropy.SIZE, out)
    elif arguments.figure == "tree":
        step, prompt = tree.choose(first, arguments.step, arguments.prompt)
        save(lambda figure: tree.draw(figure, step, prompt), tree.size(prompt), out)
    elif arguments.figure == "curves":
        runs = curves.by_name(records)
        save(lambda figure: curves.draw(figure, runs), curves.SIZE, out)
    else:
        made = calls.calls_of(first)
        save(lambda figure: calls.draw(figure, made), calls.SIZE, out)


def _steps(path: Path) -> Iterator[RecordedStep]:
    """Yield the steps of a run; what of its files can't be read is named and left out."""
    for step in source_of(path).steps():
        for problem in step.problems:
            print(f"arpo-verl plot: left out: {problem}", file=sys.stderr)
        yield step


def _default_file(records: list[Path], figure: str) -> Path:
    """Return where a figure is written if nobody says: in its run's folder, beside its file, or for several here."""
    name = f"{figure}.svg"
    if len(records) > 1:
        return Path(name)
    return records[0] / name if records[0].is_dir() else records[0].with_name(f"{records[0].stem}-{name}")


def _report(message: str, code: int) -> int:
    print(f"arpo-verl plot: {message}", file=sys.stderr)
    return code
