"""One episode in an environment, which can be continued in several ways from any of its observations."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

from arpo_tools.environment.environment import Environment, Observation, observed
from arpo_tools.tool import ArgumentError


class Branching(str, Enum):
    """How an episode is copied."""

    AUTO = "auto"
    """By the environment's `fork()` if it has one, else deep, else by a replay."""
    COPY = "copy"
    """By `fork()`, or deep."""
    REPLAY = "replay"
    """In a new environment, by the same seed and the same actions; refused where they lead elsewhere."""
    NEVER = "never"


class CannotBranchError(RuntimeError):
    """An episode can't be copied; the message says why."""


class Episode:
    """An environment with what has happened in it. Not for several threads at once."""

    def __init__(self, make: Callable[[], Environment], seed: int | None, branching: Branching) -> None:
        """Begin.

        Args:
            make: makes an environment.
            seed: of the episode.
            branching: how it is copied.

        Raises:
            Exception: what the environment raised.
        """
        self._make = make
        self._seed = seed
        self._branching = branching
        self._environment = make()
        self.actions: list[str] = []
        self.observations: list[Observation] = []
        """What was shown at the start and after each action."""
        with _closed_on_error(self._environment):
            self.observations.append(observed(self._environment.reset(seed)))

    @property
    def now(self) -> Observation:
        return self.observations[-1]

    @property
    def total_reward(self) -> float:
        return sum(one.reward for one in self.observations)

    def act(self, action: str) -> Observation:
        """Make a step.

        Raises:
            ArgumentError: it is no action, or the episode is over.
            Exception: what the environment raised.
        """
        if self.now.is_over:
            raise ArgumentError("the episode is over: no further action can be made.")
        observation = observed(self._environment.step(action))
        self.actions.append(action)
        self.observations.append(observation)
        return observation

    def fork(self) -> "Episode":
        """Return an episode that goes on from here and shares nothing with this one.

        Raises:
            CannotBranchError: it can't be copied, or a replay has shown something else.
        """
        if self._branching is Branching.NEVER:
            raise CannotBranchError("branching=never")
        if self._branching is Branching.REPLAY:
            return self._replayed()
        try:
            return self._with(self._copied_environment())
        except CannotBranchError:
            raise
        except Exception as error:  # whatever copying raises
            if self._branching is Branching.COPY:
                raise CannotBranchError(f"the environment can't be copied: {error!r}") from error
            return self._replayed()

    def _copied_environment(self) -> Environment:
        fork = getattr(self._environment, "fork", None)
        new: Any = fork() if callable(fork) else copy.deepcopy(self._environment)
        if new is self._environment:
            raise CannotBranchError("the copy of the environment is the environment itself")
        environment: Environment = new
        return environment

    def _with(self, environment: Environment) -> "Episode":
        new = copy.copy(self)
        new._environment = environment
        new.actions, new.observations = list(self.actions), list(self.observations)
        return new

    def _replayed(self) -> "Episode":
        environment = self._make()
        with _closed_on_error(environment):
            self._compare(observed(environment.reset(self._seed)), 0)
            for number, action in enumerate(self.actions, 1):
                self._compare(observed(environment.step(action)), number)
        return self._with(environment)

    def _compare(self, shown: Observation, number: int) -> None:
        if shown != self.observations[number]:
            raise CannotBranchError(
                f"a replay with the seed {self._seed} has shown {shown.text[:200]!r} (reward {shown.reward:g}) after "
                f"{number} actions; expected {self.observations[number].text[:200]!r} (reward "
                f"{self.observations[number].reward:g}): the environment isn't determined by its seed"
            )

    def close(self) -> None:
        """Close the environment, if it can be closed."""
        _close(self._environment)


@contextlib.contextmanager
def _closed_on_error(environment: Environment) -> Iterator[None]:
    """Close the environment, which nobody will use, where something is raised."""
    try:
        yield
    except BaseException:
        _close(environment)
        raise


def _close(environment: Environment) -> None:
    close = getattr(environment, "close", None)
    if callable(close):
        close()
