"""Environments that are acted in by text, and branch at each observation."""

from arpo_tools.environment.environment import Environment, Observation
from arpo_tools.environment.episode import Branching, CannotBranchError, Episode
from arpo_tools.environment.world import World, open_world

__all__ = ["Branching", "CannotBranchError", "Environment", "Episode", "Observation", "World", "open_world"]
