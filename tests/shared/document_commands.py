"""The commands that documents show: what stands as code and begins with a program that we know."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("bash", "python", "arpo-verl")
INLINE = re.compile(r"`([^`\n]+)`")
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*=")


def commands_of(document: Path) -> Iterator[tuple[bool, list[str]]]:
    """Yield the words of each command, and whether they stand in a sentence, where operands are often left out.

    Variables before it, comments, and `...` for what stands elsewhere are no part of it. Commands with a place to fill
    in, as `<file>`, and with the reader's own modules, as `my_tools`, are left out.
    """
    for is_inline, line in lines_of_code(document.read_text()):
        for part in re.split(r"\s(?:&&|\||;)\s", line):
            words = words_of(part)
            if len(words) > 1 and words[0] in PROGRAMS and not re.search(r"<\w+>|\bmy_", part):
                yield is_inline, words


def lines_of_code(text: str) -> Iterator[tuple[bool, str]]:
    """Yield the lines of blocks of code, those that go on as one, and what stands in sentences as code."""
    is_block = False
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.lstrip().startswith("```"):
            is_block = not is_block
        elif is_block or line.startswith("    "):
            yield False, line
        else:
            yield from ((True, code) for code in INLINE.findall(line))


def words_of(line: str) -> list[str]:
    """Return the words of a line of a shell; none of what is not one."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return []
    while words and VARIABLE.match(words[0]):
        words = words[1:]
    return [word for word in words if word != "..."]
