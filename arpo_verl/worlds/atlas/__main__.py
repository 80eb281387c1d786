"""`python -m arpo_verl.worlds.atlas --out DIR`: make a question world of real facts about countries and cities.

    DIR/corpus.jsonl           the search engine's documents; their order and wording depend on the seed
    DIR/train.parquet          verl's columns; `data_source` is atlas/<kind>
    DIR/validation.parquet     questions about countries, states and cities that training never names
    DIR/traces.jsonl           conversations for a cold start, in the form of the published ARPO traces
    DIR/world.json             what it was made from, and counts
    DIR/CREDITS.txt            whose the facts are

The same words give the same bytes. A second call with them finds everything in place and does nothing. The folder
appears when it is complete. Exit code: 0 success, 1 it can't be made, 2 usage.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from arpo_verl.worlds.atlas.expert import STRATEGIES
from arpo_verl.worlds.atlas.facts import load_facts, package_versions
from arpo_verl.worlds.atlas.files import found_world, new_folder, write_corpus, write_world
from arpo_verl.worlds.atlas.kinds import KINDS
from arpo_verl.worlds.atlas.making import make_world
from arpo_verl.worlds.atlas.passages import make_corpus
from arpo_verl.worlds.atlas.recipe import Recipe
from arpo_verl.worlds.atlas.styles import STYLES


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = _Parser(
        prog="python -m arpo_verl.worlds.atlas",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    usual = Recipe()
    parser.add_argument("--out", type=Path, required=True, help="new folder to write to")
    parser.add_argument("--questions", type=int, default=usual.questions, help="of training (default: %(default)s)")
    parser.add_argument("--validation", type=int, default=usual.validation, help="questions (default: %(default)s)")
    parser.add_argument("--traces", type=int, default=usual.traces, help="0: none (default: %(default)s)")
    parser.add_argument("--style", default=usual.style, help=f"of traces: {', '.join(STYLES)} (default: %(default)s)")
    parser.add_argument("--kinds", type=_names, default=usual.kinds, help=f"some of {','.join(KINDS)} (default: all)")
    parser.add_argument(
        "--strategies",
        type=_names,
        default=usual.strategies,
        help=f"of traces, some of {','.join(STRATEGIES)} (default: all)",
    )
    parser.add_argument("--seed", type=int, default=usual.seed, help="of everything (default: %(default)s)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Make the world and return the exit code."""
    words = vars(make_parser().parse_args(argv))
    try:
        out = words.pop("out").resolve()
        _make(Recipe(**words), out)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted, nothing was written", file=sys.stderr)
        return 130
    return 0


def _end(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)  # so that the draft is removed


def _make(recipe: Recipe, out: Path) -> None:
    versions = package_versions()
    if found_world(out, recipe, versions):
        print(f"the world is already in {out}")
        return
    facts = load_facts()
    corpus = make_corpus(facts, recipe.seed)
    with new_folder(out) as draft:
        write_corpus(corpus.documents(), draft / "corpus.jsonl")
        world = asyncio.run(make_world(recipe, facts, corpus, draft / "corpus.jsonl"))
        summary = write_world(world, recipe, versions, draft)
    _print(summary, out)


def _print(summary: Mapping[str, Any], out: Path) -> None:
    traces = sum(summary["traces"].values())
    print(f"{sum(summary['train'].values()):>7} training questions in {out}, {', '.join(summary['train'])}")
    print(f"{sum(summary['validation'].values()):>7} validation questions")
    if traces:
        strategies = ", ".join(f"{count} {name}" for name, count in summary["strategies"].items())
        print(f"{traces:>7} traces ({strategies}), {summary['right_traces']} of them right")
    print("facts: GeoNames (https://www.geonames.org), CC BY 4.0")
    print(f"next: export ARPO_SEARCH_CORPUS={out / 'corpus.jsonl'}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
