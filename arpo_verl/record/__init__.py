"""The record of a run's rollouts: one JSON Lines file a step, with the trees of its prompts as they grew.

`RecordedStep` says what is in it, `read_step` reads a file, `step_files` finds those of a run.
"""

from arpo_verl.record.content import (
    VERSION,
    RecordedCall,
    RecordedLeaf,
    RecordedPrompt,
    RecordedSegment,
    RecordedStep,
)
from arpo_verl.record.reading import read_step
from arpo_verl.record.run_files import NotARun, read_steps, step_files

__all__ = [
    "VERSION",
    "NotARun",
    "RecordedCall",
    "RecordedLeaf",
    "RecordedPrompt",
    "RecordedSegment",
    "RecordedStep",
    "read_step",
    "read_steps",
    "step_files",
]
