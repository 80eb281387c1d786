"""Names of rows in verl's queue and rollout files: `{prompt}_{session}_{index}` (verl 0.9.1, `agent_loop_tq.py`)."""


def prompt_of(key: str) -> str:
    """Return the prompt's id in a row's key, which may hold underscores itself."""
    return key.rsplit("_", 2)[0]


def session_of(key: str) -> str:
    """Return the session's id in a row's key."""
    return key.rsplit("_", 1)[0]
