"""Show what a run's rollouts were: trees, decisions, tokens, calls and times.

RUN is the folder of a run, or of its record (trainer.rollout_data_dir), one file of it, or the file of an evaluation
(`arpo-verl eval run`). It may go on or have died.

    arpo-verl view outputs/quickstart-arpo-seed0              # writes view.html there, to be opened from disk
    arpo-verl view outputs/quickstart-arpo-seed0 --serve      # on this machine alone; follows a run that goes on
    arpo-verl view outputs/quickstart-arpo-seed0 --terminal   # here; printed where there is no terminal
"""

import argparse
import os
import sys
from pathlib import Path

from arpo_verl.viewer.page import page_of
from arpo_verl.viewer.server import serve
from arpo_verl.viewer.sources import Source, source_of
from arpo_verl.viewer.terminal.program import show

NAME = "view.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("record", metavar="RUN", type=Path, help="what to look at")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help=f"where to write the page; by default {NAME} in RUN, or beside it"
    )
    parser.add_argument("--serve", action="store_true", help="serve the page, and follow the run, until Ctrl-C")
    parser.add_argument("--terminal", action="store_true", help="show it here, with keys where this is a terminal")
    parser.add_argument("--port", type=int, default=0, help="of --serve; by default a free one")


def run(arguments: argparse.Namespace) -> int:
    """Write or serve the page; return 0, 1 where there is nothing to look at, 2 where it was asked wrongly."""
    ways = [name for name in ("serve", "terminal", "out") if getattr(arguments, name)]
    if len(ways) > 1:
        print(f"arpo-verl view: got --{' and --'.join(ways)}; expected one of them: leave one out", file=sys.stderr)
        return 2
    if not 0 <= arguments.port < 2**16:
        print(f"arpo-verl view: --port={arguments.port}; expected 0 to 65535: correct it", file=sys.stderr)
        return 2
    try:
        source = source_of(arguments.record)
        if arguments.terminal:
            show(list(source.steps()))
        elif arguments.serve:
            serve(source, arguments.port)
        else:
            _write(source, arguments.out or default_file(source))
    except (OSError, ValueError) as error:
        print(f"arpo-verl view: {error}", file=sys.stderr)
        return 1
    return 0


def default_file(source: Source) -> Path:
    """Return where a page is written if nobody says: in the run's folder, or beside its file."""
    return source.path / NAME if source.path.is_dir() else source.path.with_suffix(".html")


def _write(source: Source, path: Path) -> None:
    draft = path.with_name(f"{path.name}.draft")
    size = 0
    with draft.open("wb") as file:
        for part in page_of(source):
            size += file.write(part)
    os.replace(draft, path)
    print(f"{path} ({size / 1e6:.1f} MB): open it in a browser")
