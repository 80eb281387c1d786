"""Former address of our verl tools, which users' tool lists may name; the present one is in the message."""

import logging

from arpo_verl.integration.rollout.tools import BrowserTool, PythonTool, SearchTool

__all__ = ["BrowserTool", "PythonTool", "SearchTool"]

logging.getLogger(__name__).warning(
    "a tool list names %s, a former address; expected arpo_verl.integration.rollout.tools: change it there", __name__
)
