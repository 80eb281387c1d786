"""What a server's text stopped at, for servers that do not return token ids.

vLLM keeps a stop string in its text when it is asked to, and says which one it was. A plain OpenAI server does neither:
its text ends before the stop string or before the end token, with the same `finish_reason`. Then a call that was opened
and not closed tells them apart.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stopped:
    """A completion's text and what the server says about its end."""

    text: str
    finish_reason: str | None
    stop_reason: str | int | None = None


def restore_stop(stopped: Stopped, stops: list[str], tag_open: str, tag_close: str) -> tuple[str, bool]:
    """Return the text with its stop string, and whether the model ended its answer.

    Args:
        stopped: the completion.
        stops: the stop strings of the request, which are closing tags.
        tag_open: the opening tag with {tool} for the tool's name.
        tag_close: the closing tag with {tool} for the tool's name.
    """
    text = stopped.text
    if stopped.finish_reason != "stop" or text.endswith(tuple(stops)):
        return text, False
    if stopped.stop_reason in stops:
        return text + str(stopped.stop_reason), False
    before, after = tag_close.split("{tool}")
    opened = {
        text.rfind(tag_open.replace("{tool}", stop[len(before) : len(stop) - len(after)])): stop for stop in stops
    }
    last = max(opened, default=-1)
    return (text + opened[last], False) if last >= 0 else (text, True)
