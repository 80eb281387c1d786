"""The styles of traces. A style decides words alone; which calls are made decides the strategy of the expert."""

from arpo_verl.worlds.atlas.styles.free import Free
from arpo_verl.worlds.atlas.styles.style import Style
from arpo_verl.worlds.atlas.styles.terse import Terse

STYLES: dict[str, Style] = {"terse": Terse(), "free": Free()}
"""The styles by name."""
