"""Every command that a document shows can be given: its files, subcommands, options and overrides are there."""

import argparse
import runpy
import shlex
import sys

import pytest
from document_commands import commands_of, words_of
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf
from page_links import DOCUMENTS, ROOT

from arpo_verl import command_line
from arpo_verl.preflight.compose import compose_config

COMMANDS = {
    f"{document.relative_to(ROOT)}: {shlex.join(words)}": (is_inline, words)
    for document in DOCUMENTS
    for is_inline, words in commands_of(document)
}


def shown(program: str) -> list[str]:
    return [name for name, (_, words) in COMMANDS.items() if words[0] == program]


class Parsed(Exception):
    """The arguments were taken; nothing was done with them."""


@pytest.fixture
def only_parsed(monkeypatch):
    """Let programs end where their arguments have been parsed."""
    parse, parse_intermixed = argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_intermixed_args

    def parse_and_end(parser, args=None, namespace=None):
        found = parse(parser, args, namespace)
        if getattr(found, "command", None) == "eval":
            return found  # whose actions have parsers of their own
        raise Parsed

    def parse_intermixed_and_end(parser, args=None, namespace=None):
        parse_intermixed(parser, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_end)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_intermixed_args", parse_intermixed_and_end)


@pytest.fixture(scope="module")
def known_keys() -> set[str]:
    """The keys of verl's configuration and of ours, groups too."""
    config = compose_config("pkg://arpo_verl.config", "arpo_trainer", ["platform=cpu"])
    found: set[str] = set()

    def add(node, prefix):
        for key, value in node.items():
            found.add(f"{prefix}{key}")
            if isinstance(value, dict):
                add(value, f"{prefix}{key}.")

    add(OmegaConf.to_container(config, resolve=False), "")
    return found


def check_overrides(words: list[str], known: set[str]) -> None:
    """Fail for an override that Hydra can't read, or that changes what there is not."""
    for override in OverridesParser.create().parse_overrides(words):
        key = override.key_or_group
        # What is added may be new, but not among our knobs, of which mappings alone take any key.
        is_free = key in ("platform", "hydra.searchpath") or (override.is_add() and not key.startswith("arpo."))
        assert is_free or key in known or key.rpartition(".")[0].endswith("_kwargs"), key


def test_the_documents_show_commands():
    assert len(COMMANDS) > 100
    assert {words[0] for _, words in COMMANDS.values()} == {"bash", "python", "arpo-verl"}


@pytest.mark.parametrize("name", shown("arpo-verl"))
def test_our_command_takes_what_is_shown(name, only_parsed, capsys):
    is_inline, (_, *words) = COMMANDS[name]
    if not is_inline:
        with pytest.raises(Parsed):
            command_line.main(words)
        return
    options = [word for word in words if word.startswith("-")]
    with pytest.raises(SystemExit) as end:
        command_line.main([*words[: words.index(options[0]) if options else None], "--help"])
    assert not end.value.code
    said = capsys.readouterr().out
    assert [option for option in options if option.startswith("--") and option not in said] == []


@pytest.mark.parametrize("name", shown("bash"))
def test_a_script_that_is_shown_is_there_and_takes_its_overrides(name, known_keys):
    script, *arguments = COMMANDS[name][1][1:]
    assert (ROOT / script).is_file()
    if script.startswith("recipes/"):
        check_overrides([word for word in arguments if "=" in word and not word.startswith("-")], known_keys)


@pytest.mark.parametrize("name", shown("python"))
def test_a_program_that_is_shown_is_there_and_takes_its_arguments(name, known_keys, only_parsed, monkeypatch):
    is_inline, (_, *words) = COMMANDS[name]
    if words[:2] == ["-m", "verl.trainer.main_ppo"]:
        check_overrides([word for word in words[2:] if "=" in word and not word.startswith("-")], known_keys)
    elif words[0] == "-m":
        monkeypatch.setattr(sys, "argv", [words[1], *words[2:], *(["--help"] if is_inline else [])])
        with pytest.raises(SystemExit if is_inline else Parsed):
            runpy.run_module(words[1], run_name="__main__")
    elif words[0] != "-c":
        source = (ROOT / words[0]).read_text()
        assert [word for word in words[1:] if word.startswith("--") and word.partition("=")[0] not in source] == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("STEPS=2 N=1 bash a.sh x=1 ...  # why", ["bash", "a.sh", "x=1"]),
        ("it's not a command", []),
        ("", []),
    ],
)
def test_a_line_is_read_as_a_shell_reads_it(line, words):
    assert words_of(line) == words


@pytest.mark.parametrize("override", ["+arpo.rul=threshold", "arpo.preset=[", "actor_rollout_ref.rollout.m=3"])
def test_an_override_that_can_not_be_given_is_found(override, known_keys):
    with pytest.raises((AssertionError, OverrideParseException)):
        check_overrides([override], known_keys)


def test_a_command_that_can_not_be_given_is_found(only_parsed):
    with pytest.raises(SystemExit):
        command_line.main(["view", "run", "--terminals"])
