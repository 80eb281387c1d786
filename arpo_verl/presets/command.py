"""Lists the algorithms of the family: what each does, its paper, what it needs and costs; or shows the settings of one.

Examples:
  arpo-verl algorithms
  arpo-verl algorithms tree_grpo
"""

import argparse
import sys

import yaml
from rich.console import Console
from rich.text import Text

from arpo_verl.presets import Preset, load_preset, preset_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `arpo-verl algorithms`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="an algorithm, or the path of a preset of your own")


def run(arguments: argparse.Namespace) -> int:
    """Print the list, or one algorithm, and return the exit code."""
    console = Console(highlight=False, soft_wrap=True)  # a line each, for `grep`
    if arguments.name is None:
        presets = [load_preset(name) for name in preset_names()]
        width = max(len(preset.name) for preset in presets)
        for preset in presets:
            console.print(_line(preset, width))
        console.print("arpo.preset=NAME runs one; `arpo-verl algorithms NAME` shows what it sets.", markup=False)
        return 0
    try:
        preset = load_preset(arguments.name)
    except ValueError as error:
        print(f"arpo-verl algorithms: {error}", file=sys.stderr)
        return 2
    console.print(_description(preset), markup=False)
    return 0


def _line(preset: Preset, width: int) -> Text:
    last = f"Not here: {preset.unavailable}." if preset.unavailable else f"Needs {preset.needs}. Costs {preset.costs}."
    name = (preset.name.ljust(width), "dim" if preset.unavailable else "bold")
    return Text.assemble(name, f"  {preset.paper or 'ours':<10}  {preset.title}: {preset.summary}. ", (last, "dim"))


def _description(preset: Preset) -> str:
    paper = f" (arXiv {preset.paper})" if preset.paper else ""
    lines = [f"{preset.name}: {preset.title}{paper}", preset.summary]
    if preset.unavailable:
        return "\n".join([*lines, f"not here: {preset.unavailable}"])
    settings = yaml.safe_dump(dict(preset.settings), sort_keys=False, width=100).rstrip()
    asks = ["asks for, such as:", *preset.asks] if preset.asks else []
    return "\n".join([*lines, f"needs: {preset.needs}", f"costs: {preset.costs}", "sets:", settings, *asks])
