"""Repairs texts that are not valid Python: removes Markdown's fences, prompts and common indentation.

For texts that do not compile as they stand, and for them alone: a valid program is never changed. Every line keeps its
number, so that an error names the line that the model wrote. It imports nothing of this package, as its source also
travels to servers.
"""

from __future__ import annotations  # a server's Python may be older than ours

import re
import textwrap

_FENCE = re.compile(r"[ \t]*(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^`]*)")
_LANGUAGE = re.compile(r"\{?\.?(?P<word>[\w+#-]*)\}?(?=[\s,]|$)[\s,]*(?P<rest>.*)")
_PYTHON = {"", "python", "python2", "python3", "py", "py3", "ipython", "ipython3", "code", "tool_code"}
"""The languages of a fenced block that is a program."""
_REMARK = re.compile(r"\{.*|[\w./-]+|[\w-]+=(?:\"[^\"]*\"|'[^']*'|[^\s\"']+)(?:\s.*)?")
"""What may follow the language and is no code: a file's name, `title="..."`, `{...}`."""
_INLINE = re.compile(r"\s*(?P<ticks>`+)(?:(?:python3?|py)[ \t]+)?(?P<code>[^`\n]+)(?P=ticks)\s*")

_TAGS = re.compile(r"\A(?:\s*<(?:pre|code|python)\b[^<>]{0,100}>)+|(?:</(?:pre|code|python)>\s*)+\Z", re.IGNORECASE)
_PROMPT = re.compile(r"[ \t]*(?:>>>|\.\.\.|In \[\d*\]:)(?: |\Z)")


def likely_programs(text: str) -> list[str]:
    """Return the programs that an invalid text may have been meant to be, the likeliest first.

    All blocks in fences that are Python's, with their languages or without one, are one program, whatever stands around
    them; blocks of other languages are left out. A fence may be indented, lack its partner, or share a line with code.
    HTML's tags around a program go, and the prompts of an interactive session with what it printed.
    Indentation that all lines have in common goes. The first one whose syntax is right is the one to run; the error of
    the first one is the one to show.
    """
    lines = _TAGS.sub("", text).split("\n")
    fenced = _without_fences(lines)
    typed = [reading for text_lines in [*fenced, lines] for reading in _without_prompts(text_lines)]
    readings = [*typed, *fenced, lines]
    # The indentation of the first line is often lost, because the call's text was stripped.
    found = [*map(_dedented, readings), lines, *map(_with_dedented_rest, readings)]
    programs = ["\n".join(reading) for reading in found]
    return list(dict.fromkeys(program for program in programs if program.strip()))


def _without_fences(lines: list[str]) -> list[list[str]]:
    """Return the readings of a text with fences: block by block, and from the first fence to the last one."""
    if inline := _INLINE.fullmatch("\n".join(lines)):
        return [[inline["code"]]]
    blocks, last_fence = _blocks(lines)
    readings = []
    if any(line.strip() for line in blocks):
        readings.append(blocks)
        first = next(number for number, line in enumerate(lines) if _FENCE.fullmatch(line))
        # Between them may be a text that has fences of its own.
        readings.append([line if first < number < last_fence else "" for number, line in enumerate(lines)])
    elif last_fence >= 0:  # the call's tag took the place of the opening fence
        closing = _closing_position(lines[last_fence], "```") or _closing_position(lines[last_fence], "~~~") or 0
        readings.append([*lines[:last_fence], lines[last_fence][:closing]])
    return readings


def _without_prompts(lines: list[str]) -> list[list[str]]:
    """Return what was typed in an interactive session, where the first line of code has its prompt."""
    first = next((line for line in lines if line.strip()), "")
    if not _PROMPT.match(first) or first.lstrip().startswith("..."):
        return []
    return [[_PROMPT.sub("", line, count=1) if _PROMPT.match(line) else "" for line in lines]]


def _blocks(lines: list[str]) -> tuple[list[str], int]:
    """Return the lines of all fenced blocks of Python, blank where there is none, and the place of the last fence."""
    kept = [""] * len(lines)
    last_fence = -1
    fence, is_python, start = "", False, 0
    for number, line in enumerate(lines):
        if not fence:
            closing = _closing_position(line, "```")
            if opening := _FENCE.fullmatch(line):
                last_fence, start = number, number
                fence = opening["fence"]
                is_python, kept[number] = _first_line(opening["info"])
            elif closing:
                last_fence = number
            continue
        closing = _closing_position(line, fence)
        if is_python:
            kept[number] = line if closing is None else line[:closing]
        if closing is not None:
            kept[start : number + 1] = _dedented(kept[start : number + 1])
            last_fence, fence = number, ""
    if fence:
        kept[start:] = _dedented(kept[start:])
    return kept, last_fence


def _first_line(info: str) -> tuple[bool, str]:
    """Return whether a block is Python's, and the code that stands on the line of its opening fence."""
    language = _LANGUAGE.fullmatch(info.strip())
    if language is None or language["word"].lower() not in _PYTHON:
        return False, ""
    rest = language["rest"]
    return True, "" if _REMARK.fullmatch(rest) else rest


def _closing_position(line: str, fence: str) -> int | None:
    """Return where a closing fence begins that ends a line, or None."""
    stripped = line.rstrip()
    bare = stripped.rstrip(fence[0])
    return len(bare) if len(stripped) - len(bare) >= len(fence) else None


def _dedented(lines: list[str]) -> list[str]:
    """Return the lines without the indentation of the first that is code; those that have less of it stay."""
    is_code = (line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    first = next(is_code, "")
    margin = first[: len(first) - len(first.lstrip(" \t"))]
    return [
        line.removeprefix(margin) if line.startswith(margin) else line.lstrip(" \t") if _is_remark(line) else line
        for line in lines
    ]


def _is_remark(line: str) -> bool:
    return line.lstrip().startswith("#")


def _with_dedented_rest(lines: list[str]) -> list[str]:
    """Return the lines, of which the first is left as it is, without the indentation that all others share."""
    first = next((number for number, line in enumerate(lines) if line.strip()), 0)
    rest = textwrap.dedent("\n".join(lines[first + 1 :])).split("\n")
    return [*lines[:first], lines[first].lstrip(" \t"), *rest][: len(lines)]
