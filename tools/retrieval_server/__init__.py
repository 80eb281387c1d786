"""A server for a local corpus by Search-R1's protocol; `command.py` says what it covers."""

from arpo_tools.retrieval_server.app import make_app, start
from arpo_tools.retrieval_server.command import main

__all__ = ["main", "make_app", "start"]
