"""Worlds that can't be copied: each plays its game in a process of its own."""

import os
import random
import subprocess
import sys
import time

from arpo_tools import ArgumentError
from arpo_tools.environment import Observation

GAME = """
import random, sys
seed = sys.stdin.readline().strip()
dice = random.Random(seed)
position, steps = 0, 0
print(f"start {dice.randint(1, 100)}", flush=True)
for line in sys.stdin:
    position += {"back": -1, "forth": 1}[line.strip()]
    print(f"at {position}, rolled {dice.randint(1, 100)}", flush=True)
"""


class PipedGame:
    """Goes back and forth and rolls dice."""

    description = "Goes back or forth."

    def __init__(self, length: int = 3) -> None:
        self.length = length
        self.position = 0
        self.process: subprocess.Popen | None = None

    def _asked(self, line: str) -> str:
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def reset(self, seed: int | None) -> str:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-S", "-c", GAME], **pipes)
        return self._asked(str(self.seeded(seed)))

    def seeded(self, seed: int | None) -> object:
        return seed

    def step(self, action: str) -> Observation:
        if action not in ("back", "forth"):
            raise ArgumentError("expected back or forth.")
        self.position += 1 if action == "forth" else -1
        is_over = abs(self.position) == self.length
        return Observation(self._asked(action), float(self.position == self.length), is_over)

    def close(self) -> None:
        if self.process is not None:
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait(10)


class Unseeded(PipedGame):
    """Does not care about the seed."""

    def seeded(self, seed: int | None) -> object:
        return os.urandom(8).hex()


class Drifting(PipedGame):
    """Begins by the seed and rolls as it likes: what was seen first comes again, what follows does not."""

    def step(self, action: str) -> Observation:
        shown = super().step(action)
        return Observation(f"{shown.text} {random.SystemRandom().random()}", shown.reward, shown.is_over)


class Stuck:
    """Hangs at its first step."""

    def reset(self, seed: int | None) -> str:
        return "start"

    def step(self, action: str) -> str:
        time.sleep(2)
        return "late"


class Wrong:
    """Shows what is no observation."""

    def reset(self, seed: int | None) -> str:
        return "start"

    def step(self, action: str) -> object:
        if action == "raise":
            raise KeyError("no such room")
        return 5


class Headless:
    """Can't be reset."""

    def reset(self, seed: int | None) -> str:
        raise OSError("no display")

    def step(self, action: str) -> str:
        return ""
