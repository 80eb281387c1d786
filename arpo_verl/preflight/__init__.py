"""Checks before a run starts, shared with the doctor."""
