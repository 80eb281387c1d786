"""The knobs of the call syntax `arpo_tags`."""

from dataclasses import dataclass

from arpo_verl.config.knob import knob, require, text_with


@dataclass(frozen=True)
class SyntaxKnobs:
    """How calls and results are written in the format `arpo_tags`."""

    tag_open: str = knob("<{tool}>", "opening tag of a call; {tool} is the tool's name", text_with("{tool}"))
    tag_close: str = knob("</{tool}>", "closing tag of a call; {tool} is the tool's name", text_with("{tool}"))
    result_template: str = knob(
        " <result>\n{result}\n</result>",
        "what is inserted for a tool's result; {result} is its text",
        text_with("{result}"),
    )

    def check_syntax(self) -> None:
        """Raise a ValueError unless the two tags differ."""
        require(self.tag_open != self.tag_close, "tag_close", self.tag_close, "another text than arpo.tag_open")
