r"""The format of a response: its tags, its box, and the tools that it has called.

The tags <think>, <search>, <python>, <result> and <answer> are balanced and not nested, there is exactly one <answer>,
nothing comes after it, and it holds a box. Inside a <think> the rules are as lenient as those of the released code: a
call with its result may stand there, a tool's tag may be mentioned if a call of that tool with a result follows
somewhere, and closing tags and <result> that belong to no call mean nothing.
"""

import re
from collections.abc import Iterator

from arpo_verl.reward.answer import extract_boxed

TOOLS = ("search", "python")
TAGS = ("think", *TOOLS, "result", "answer")
_TAG = re.compile(rf"<(/?)({'|'.join(TAGS)})>")


def format_defect(text: str) -> str | None:
    """Return what is wrong with the format of a response, or None."""
    return _FormatParser(text).defect


def called_tools(text: str) -> set[str]:
    """Return the tools that a response calls: of which it has an opening and a closing tag outside of results."""
    return _FormatParser(text).called


class _FormatParser:
    """One pass over the tags of a response."""

    def __init__(self, text: str) -> None:
        self.called: set[str] = set()
        self.defect: str | None = None
        self._inside: list[str] = []
        """The tags that are open: one, or <think> and those inside it."""
        self._answers = 0
        self._mentioned: dict[str, str] = {}
        """Tools named in a <think> that no call with a result has followed yet, with the defect if none does."""
        self._last_call: str | None = None
        """The tool whose closing tag was the last tag."""
        for match in _outside_results(text):
            self.defect = self._read(bool(match[1]), match[2])
            if self.defect:
                return
        self.defect = self._unfinished() or _answer_defect(text)

    def _read(self, is_closing: bool, tag: str) -> str | None:
        """Process the next tag and return what is wrong with it."""
        last_call, self._last_call = self._last_call, None
        if self._inside and self._inside[0] == "think":
            return self._read_in_think(is_closing, tag, last_call)
        inside = self._inside[0] if self._inside else None
        if is_closing:
            if tag != inside:
                return f"</{tag}> without <{tag}>"
            self._inside.clear()
            if tag in TOOLS:
                self._close_call(tag)
            return None
        if inside is not None:
            return f"<{tag}> inside <{inside}>"
        self._inside.append(tag)
        self._answers += tag == "answer"
        if tag == "result" and last_call:
            self._note_result(last_call)
        return None

    def _read_in_think(self, is_closing: bool, tag: str, last_call: str | None) -> str | None:
        if tag == "think":
            if not is_closing:
                return "<think> inside <think>"
            self._mention_open_calls()
            self._inside.clear()
            self._last_call = last_call  # its result may stand after the thought
        elif tag == "answer":
            return f"<{'/' * is_closing}answer> inside <think>"
        elif tag in TOOLS and not is_closing:
            self._inside.append(tag)
        elif tag in TOOLS:
            if tag in self._inside:
                self._inside.reverse()
                self._inside.remove(tag)
                self._inside.reverse()
                self._close_call(tag)
                self._mentioned.setdefault(tag, f"a call of <{tag}> inside <think> has no <result>")
        elif not is_closing and last_call:
            self._note_result(last_call)
        return None

    def _close_call(self, tool: str) -> None:
        self.called.add(tool)
        self._last_call = tool

    def _note_result(self, tool: str) -> None:
        """Clear the defects of a tool's earlier mentions, now that a call of it has a result."""
        self._mentioned.pop(tool, None)
        self._inside[1:] = [tag for tag in self._inside[1:] if tag != tool]

    def _mention_open_calls(self) -> None:
        for tool in self._inside[1:]:
            self._mentioned.setdefault(
                tool, f"<{tool}> is mentioned inside <think>, and no call of it with a <result> follows"
            )

    def _unfinished(self) -> str | None:
        if self._inside:
            return f"<{self._inside[0]}> is not closed"
        if self._mentioned:
            return next(iter(self._mentioned.values()))
        return None if self._answers == 1 else f"{self._answers} answers"


def _outside_results(text: str) -> Iterator[re.Match[str]]:
    """Yield the tags outside tool results: a tool's text may hold anything, even the end of a result in a line.

    Inside a <think>, only a <result> after a call is one.
    """
    is_result = is_think = False
    before = ""
    for match in _TAG.finditer(text):
        slash, tag = match.groups()
        if is_result and not (slash and tag == "result" and text[match.start() - 1] == "\n"):
            continue
        is_result = tag == "result" and not slash and (not is_think or before in TOOLS)
        is_think = (tag == "think" and not slash) or (is_think and tag != "think")
        before = tag if slash else ""
        yield match


def _answer_defect(text: str) -> str | None:
    before, _, after = text.rpartition("</answer>")
    if after.strip():
        return "text after the answer"
    if extract_boxed(before[before.rindex("<answer>") :]) is None:
        return "no boxed answer"
    return None
