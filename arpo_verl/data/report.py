"""The report of a validation: errors and warnings, the first of each kind in full and the others counted."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

_SHOWN_OF_A_KIND = 3


@dataclass(frozen=True)
class Group:
    """Rows of a file that are counted together."""

    file: str
    data_source: str
    ability: str


@dataclass
class ValidationReport:
    """The errors, warnings and counts, which are collected while files are read."""

    errors: Counter[str] = field(default_factory=Counter)
    """The number of errors by kind."""
    warnings: Counter[str] = field(default_factory=Counter)
    """The number of warnings by kind."""
    rows: Counter[Group] = field(default_factory=Counter)
    longest_prompt: dict[Group, int] = field(default_factory=dict)
    """The length of the longest prompt in tokens, or in characters without a tokenizer."""
    _shown: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def error(self, place: str, problem: str, kind: str | None = None) -> None:
        """Add an error at a place: a file, or a file and a row.

        `kind` is the problem without what differs from row to row; errors of a kind are counted together.
        """
        self.errors[kind or problem] += 1
        self._show(kind or problem, f"{place}: {problem}")

    def warning(self, place: str, problem: str, kind: str | None = None) -> None:
        """Add a warning, as an error is added."""
        self.warnings[kind or problem] += 1
        self._show(kind or problem, f"{place}: {problem}")

    def _show(self, kind: str, line: str) -> None:
        if len(self._shown[kind]) < _SHOWN_OF_A_KIND:
            self._shown[kind].append(line)

    def lines(self) -> list[str]:
        """Return the errors, then the warnings."""
        lines = []
        for word, counts in (("error", self.errors), ("warning", self.warnings)):
            for kind, count in counts.items():
                lines += [f"{word}: {line}" for line in self._shown[kind]]
                if count > len(self._shown[kind]):
                    lines.append(f"{word}: ... and {count - len(self._shown[kind])} more: {kind}")
        return lines
