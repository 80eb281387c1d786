"""What the record of a step holds. Plain values, so that it is written as JSON and read anywhere.

A prompt's segments are stored once, in order of their first leaf; a leaf is a list of their places. Times are seconds
since 1970 in the header and seconds since the step began everywhere else. What has its default is not written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from arpo_verl.rollout.tree import Decision, Refusal

FORMAT, VERSION = "arpo-verl rollout", 1
"""What the first line of a file says under `format` and `version`."""


@dataclass(frozen=True)
class RecordedCall:
    """One tool call. Its result is the text of the segment that it stands with."""

    tool: str
    status: str
    """A value of `arpo_tools.ToolStatus`."""
    seconds: float = 0.0
    """How long it took, with all retries, without the time that it waited."""
    arguments: str = ""
    """The text of a tag, or named arguments as JSON."""
    retries: int = 0
    started: float | None = None
    """When it was asked for."""
    waited: float = 0.0
    """Seconds that it waited for other calls in flight, from `started` on."""
    is_cached: bool | None = None
    cost: float | None = None
    """In the unit of the service that names it."""


@dataclass(frozen=True)
class RecordedSegment:
    """Tokens that were generated, or inserted as a tool's result, in one piece."""

    text: str
    """Decoded with its special tokens."""
    tokens: int
    is_sampled: bool = True
    times: tuple[float, float] | None = None
    """When sampling was asked for and when it had ended."""
    waited: float = 0.0
    """Seconds of that before a request was sent."""
    weight_versions: tuple[int, int] | None = None
    """First and last version of the weights that sampled it."""
    special: Sequence[tuple[int, int]] = ()
    """Where special tokens stand in `text`: first character, and the one behind the last."""
    lengths: str = ""
    """Characters of each token (`token_values.unpack_lengths`); empty: one each."""
    log_probs: str = ""
    """Minus log-probability of each token (`token_values.unpack`), in nats; empty where unknown."""
    entropies: str = ""
    """The actor's entropy at each token, likewise."""
    watched: Sequence[float] = ()
    """The server's entropies of its first tokens, in nats, where a branching rule has looked at them."""
    calls: Sequence[RecordedCall] = ()
    """The calls that this segment is the result of."""


@dataclass(frozen=True)
class RecordedLeaf:
    """One trajectory of a prompt: a row of verl's batch."""

    key: str
    """The row's key."""
    number: int = 0
    """0 to n - 1 in a tree, in order of creation; the session's number where leaves share nothing."""
    segments: Sequence[int] = ()
    """Places in the prompt's `segments`, from the prompt on."""
    reward: float | None = None
    """None: not a finite number."""
    parts: dict[str, Any] = field(default_factory=dict)
    """What else the reward function returned."""
    advantages: Sequence[float | None] = ()
    """Mean advantage of the tokens that are in the loss, one for each of `segments`; None where none is. Empty: there
    are no advantages."""
    stop_reason: str = ""
    parent: int | None = None
    """Number of the leaf that this one forked from."""
    path: str = ""
    fork_token: int | None = None
    """Length of the response where it forked."""
    is_top_up: bool = False
    is_result_cut: bool = False
    is_excluded: bool = False
    decisions: Sequence[Decision] = ()
    """The decisions at this leaf's own fork points."""
    refusals: Sequence[Refusal] = ()
    """Its own fork points at which the branching rule was not asked."""
    requested_tokens: int = 0
    cached_tokens: int = 0
    replayed_step: int | None = None
    """The step in which a replayed row was sampled; it stands in the place of a leaf."""
    reward_times: tuple[float, float] | None = None
    """When the reward was asked for and when it was there."""
    signals: dict[str, Any] = field(default_factory=dict)
    """Those of `arpo_verl.rollout.leaf_signals.LeafSignals` that the run has asked for."""


@dataclass(frozen=True)
class RecordedPrompt:
    """One prompt and its leaves."""

    uid: str
    text: str
    """Decoded with its special tokens."""
    segments: Sequence[RecordedSegment] = ()
    leaves: Sequence[RecordedLeaf] = ()
    special: Sequence[tuple[int, int]] = ()
    """Where special tokens stand in `text`, as in `RecordedSegment`."""
    truth: Any = None
    """The accepted answer, where the dataset has one."""
    source: str = ""
    """The dataset's `data_source`."""

    def segments_of(self, leaf: RecordedLeaf) -> Iterator[RecordedSegment]:
        """Yield a leaf's segments from the prompt on."""
        return (self.segments[place] for place in leaf.segments)

    def calls_of(self, leaf: RecordedLeaf) -> list[RecordedCall]:
        """Return a leaf's calls, those of its prefix included."""
        return [call for segment in self.segments_of(leaf) for call in segment.calls]

    def output_of(self, leaf: RecordedLeaf) -> str:
        """Return a leaf's text without special tokens, as verl's own files have it."""
        return "".join(map(plain_text, self.segments_of(leaf)))


@dataclass(frozen=True)
class RecordedStep:
    """One step of training: a file."""

    step: int
    began: float = 0.0
    """When the step began, in seconds since 1970."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What verl has measured of its parts, in their order (`timing_raw`)."""
    alarms: Sequence[str] = ()
    """What the trainer has logged as warnings and errors."""
    size: int = 0
    """The number of prompts that were written."""
    prompts: Sequence[RecordedPrompt] = ()
    problems: Sequence[str] = ()
    """What of the file could not be read, in words; not part of the file."""

    def rows(self) -> Iterator[tuple[RecordedPrompt, RecordedLeaf]]:
        """Yield each leaf with its prompt."""
        return ((prompt, leaf) for prompt in self.prompts for leaf in prompt.leaves)


def plain_text(segment: RecordedSegment | RecordedPrompt, between: str = "") -> str:
    """Return a text without its special tokens, in whose places something else may stand."""
    kept, end = [], 0
    for first, behind in segment.special:
        kept.append(segment.text[end:first])
        end = behind
    return between.join([*kept, segment.text[end:]])
