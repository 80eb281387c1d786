"""Ends a training step that waits for something that will not come: a process has died, or nothing happens any more.

Ray reports the death of an actor to whoever waits for its answer. A step of verl's V1 trainer waits for something else,
for rows in TransferQueue: an agent loop worker that dies in the middle never writes its rows, and a request to a dead
TransferQueue is never answered (verl 0.9.1, `trainer/ppo/v1/replay_buffer.py`, `sample`; TransferQueue 0.1.11,
`client.py`). So a thread asks the actors whether they live, and interrupts the main thread, wherever it waits. A
process that hangs but lives answers as little as one that is busy; it is found because nothing happens any more.
"""

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError

from arpo_verl.integration.training.tool_guard import RunStopped

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""Between two looks; a death is found within about twice this time."""
JOIN_SECONDS = 15.0
"""How long an end waits for a thread that asks Ray."""
INTERRUPT = signal.SIGUSR2
"""Python runs its handler in the main thread, also while that waits for a lock or in `ray.get`."""


class NothingHappens(RunStopped):
    """The run waits for something that does not come."""

    are_leaves_bad = False


class ProcessDied(RunStopped):
    """Processes that the run needs have died."""

    are_leaves_bad = False

    def __init__(self, causes: Mapping[str, str]) -> None:
        self._names = list(causes)
        details = "; ".join(f"{name}: {cause}" for name, cause in causes.items())
        super().__init__(
            f"{', '.join(causes)} died while the run needed it; expected it to live until the end: look for its end in "
            f"the log above, or for a lack of memory ({details})"
        )

    def is_among(self, beginning: str) -> bool:
        """Whether a process whose name begins so is among the dead."""
        return any(name.startswith(beginning) for name in self._names)


class ProcessWatch:
    """Raises `RunStopped` in the main thread when an actor has died, when there is no progress, or by request."""

    def __init__(
        self,
        actors: Mapping[str, ActorHandle],
        progress: Callable[[], object],
        stall_seconds: float,
        request: Callable[[], RunStopped | None] = lambda: None,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """
        Args:
            actors: those that a step waits for, by a name that a user understands.
            progress: what changes when a leaf comes or a part of a step ends; its text tells a user what has happened.
            stall_seconds: how long `progress` may stay the same.
            request: returns how the run is asked to end, or None; looked at once a look.
            look_seconds: between two looks.
        """
        self._actors = dict(actors)
        self._progress = progress
        self._stall_seconds = stall_seconds
        self._request = request
        self._look_seconds = look_seconds
        self._questions: dict[str, ray.ObjectRef] = {}
        """Unanswered questions whether an actor lives. A busy actor answers late, which is no sign of death."""
        self._last_progress: object | None = None
        self._changed = time.monotonic()
        self._found: RunStopped | None = None
        self._is_over = threading.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the block runs, which has to be in the main thread.

        Raises:
            RunStopped: an actor has died or nothing happens.
        """
        stock_handler = signal.signal(INTERRUPT, self._raise)
        # A thread each: where Ray itself hangs, so does whoever asks it, but a stall is seen without asking.
        threads = [
            threading.Thread(target=self._look_again_and_again, args=(look,), name="process watch", daemon=True)
            for look in (self._request, self._died, self._stalled)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            for thread in threads:
                thread.join(JOIN_SECONDS)
            signal.signal(INTERRUPT, stock_handler)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if self._found is not None and not self._is_over.is_set():
            raise self._found

    def _look_again_and_again(self, look: Callable[[], RunStopped | None]) -> None:
        while not self._is_over.wait(self._look_seconds):
            try:
                self._found = self._found or look()
            except Exception:  # whatever a replay buffer of somebody else's raises: a watch that ends sees nothing
                logger.exception("could not look after the processes of this run; looking again")
            if self._found is not None and not self._is_over.is_set():
                # Again and again, as code that is interrupted may swallow the first exception.
                signal.pthread_kill(threading.main_thread().ident or 0, INTERRUPT)

    def _died(self) -> RunStopped | None:
        """Return which actors have died, if any has."""
        dead = self._dead()
        return ProcessDied(dead) if dead else None

    def _stalled(self) -> RunStopped | None:
        """Return that nothing happens any more, if it is so."""
        progress = self._progress()
        if progress != self._last_progress:
            self._last_progress, self._changed = progress, time.monotonic()
        waited = time.monotonic() - self._changed
        if waited < self._stall_seconds:
            return None
        return NothingHappens(
            f"nothing has happened for {waited:.0f} s ({progress}); expected a leaf to come or a part of the step to "
            f"end within arpo.max_stall_seconds={self._stall_seconds:g}: look for what hangs in the log above, or "
            f"raise the limit if a generation or an update takes that long"
        )

    def _dead(self) -> dict[str, str]:
        """Ask each actor that owes no answer; return the causes of death."""
        for name, actor in self._actors.items():
            if name not in self._questions:
                self._questions[name] = actor.__ray_ready__.remote()
        if not self._questions:
            return {}
        questions = list(self._questions.values())
        answered, _ = ray.wait(questions, num_returns=len(questions), timeout=self._look_seconds)
        dead = {}
        for name in [name for name, question in self._questions.items() if question in answered]:
            try:
                ray.get(self._questions.pop(name))
            except ActorDiedError as error:
                dead[name] = str(error).strip().splitlines()[0]
        return dead
