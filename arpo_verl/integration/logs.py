"""Makes our warnings visible in verl's processes, where imported packages let the root logger show errors alone."""

import logging
import os
import sys

PACKAGES = ("arpo_verl", "arpo_tools")


def show_warnings() -> None:
    """Give our loggers a handler for what the root logger's handlers leave out. Idempotent.

    verl does the like for its own loggers (`utils/logging_utils.py`).
    """
    for name in PACKAGES:
        logger = logging.getLogger(name)
        if logger.handlers:
            continue
        handler = logging.StreamHandler(stream=sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s:%(asctime)s:%(message)s"))
        handler.addFilter(lambda record: all(record.levelno < root.level for root in logging.root.handlers))
        logger.addHandler(handler)
        logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "WARNING"))
