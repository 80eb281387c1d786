"""Check this machine, the tools and the data of a run, in seconds and without starting it.

Give it the overrides that you give to `python -m verl.trainer.main_ppo`:

    arpo-verl doctor                                    the machine, and the tools that need no data
    arpo-verl doctor data.train_files=... data.val_files=... actor_rollout_ref.model.path=...
    arpo-verl doctor --config-path pkg://verl.trainer.config --config-name ppo_trainer algorithm.adv_estimator=arpo ...

The configuration is the preset arpo_trainer unless --config-name says otherwise. One line a check: ok, warning, failed
or skipped. Exit code: 0 nothing failed, 1 something failed, 2 the overrides can't be understood.

Each search service is asked one question, which costs money where the service does.
"""

import argparse
import sys
import time
from collections import Counter

import yaml
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.text import Text

from arpo_verl.doctor.doctor_run import DoctorRun
from arpo_verl.doctor.finding import DoctorInput, DoctorOptions, Finding, Status
from arpo_verl.preflight.compose import PRESET, compose_config

STYLES = {Status.OK: "green", Status.WARNING: "yellow", Status.FAILED: "bold red", Status.SKIPPED: "dim"}
NAME_WIDTH = 26


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as for verl; the options below go before or after all of them",
    )
    parser.add_argument(
        "--config-path", "-cp", default=PRESET[0], help="absolute, or pkg://package (default: the preset)"
    )
    parser.add_argument("--config-name", "-cn", default=PRESET[1], help="default: the preset")
    parser.add_argument("--no-paid-calls", action="store_true", help="do not call search services that cost money")
    parser.add_argument("--query", help="what search tools are asked")
    parser.add_argument("--fetch-url", metavar="URL", help="a page for the page browser to fetch")
    parser.add_argument(
        "--check-seconds",
        type=_positive,
        default=DoctorOptions.check_seconds,
        help="time of one check (default: %(default)g)",
    )


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Run the checks, print their findings and return the exit code."""
    started = time.monotonic()
    options = DoctorOptions(
        may_pay=not arguments.no_paid_calls,
        query=arguments.query,
        url=arguments.fetch_url,
        check_seconds=arguments.check_seconds,
    )
    console = Console(highlight=False, soft_wrap=True)
    counts: Counter[Status] = Counter()
    with DoctorRun() as doctor_run:
        try:
            config = compose_config(arguments.config_path, arguments.config_name, arguments.overrides)
        except (ValueError, ImportError, HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
            override = f"{error.override!r}: " if isinstance(error, OverrideParseException) else ""
            print(f"arpo-verl doctor: {override}{error}", file=sys.stderr)
            return 2
        for finding in doctor_run.findings(DoctorInput(config, options)):
            counts[finding.status] += 1
            console.print(_line(finding))
    shown = ", ".join(f"{counts[status]} {status.value}" for status in Status)
    console.print(f"{counts.total()} checks in {time.monotonic() - started:.1f} s: {shown}")
    return 1 if counts[Status.FAILED] else 0


def _line(finding: Finding) -> Text:
    text = " ".join(finding.text.split())
    name = finding.check.ljust(NAME_WIDTH)
    return Text.assemble((finding.status.value.ljust(8), STYLES[finding.status]), " ", name, " ", text)
