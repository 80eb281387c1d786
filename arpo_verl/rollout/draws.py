"""A random generator that remembers what it has drawn, so that a decision can be looked at afterwards."""

import random


class RecordedDraws(random.Random):
    """Draws what `random.Random` draws with the same seed, and keeps the numbers of `random()`."""

    def __init__(self, seed: str) -> None:
        self.drawn: list[float] = []
        """The numbers in [0, 1) so far, in order."""
        super().__init__(seed)

    def random(self) -> float:
        value = super().random()
        self.drawn.append(value)
        return value

    def getrandbits(self, k: int, /) -> int:
        """As in the base class. Without it, `random.Random` would draw whole numbers by other means in a subclass that
        has a `random` of its own."""
        return super().getrandbits(k)
