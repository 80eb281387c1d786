"""The plan that the tool starts a helper with, and the report that the helper sends back."""

import dataclasses
import json
from dataclasses import dataclass, field

from .limits import ProgramLimits


@dataclass(frozen=True)
class Plan:
    """The helper's command line."""

    limits: ProgramLimits
    isolation: str
    """`auto`: as much as there is; `strict`: landlock and seccomp or nothing; `limits`: resource limits only."""
    library_folders: list[str]
    """Folders that are added to `sys.path`."""
    libraries: list[str]
    """Import names of what is imported before programs start; those that can't be are left to the programs."""
    readable: list[str]
    """Paths that landlock lets a program read."""
    parent: int
    """The process whose end is the helper's; 0 if something between them sees to that."""
    hash_seed: str = "0"
    """Python's seed of the hashes of texts, which all children of a helper share: a number, or `random`."""

    def to_json(self) -> str:
        """Return the plan as one line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Return the plan of `to_json`."""
        values = json.loads(text)
        return cls(**values | {"limits": ProgramLimits(**values["limits"])})


@dataclass(frozen=True)
class SandboxReport:
    """The isolation of programs, as tested by a program that tries to escape."""

    has_bubblewrap: bool = False
    """Namespaces of its own: no other process, no network device, no file that isn't Python's is even visible."""
    has_landlock: bool = False
    has_seccomp: bool = False
    has_thread_gate: bool = False
    """Threads are counted; without it, seccomp refuses them."""
    landlock_abi: int = 0
    missing: list[str] = field(default_factory=list)
    """Layers of isolation that could not be had, why, and what to do; one sentence each."""
    unreadable: list[str] = field(default_factory=list)
    """Folders of libraries that programs can't read, as whoever runs them has no privileges."""
    preloaded: list[str] = field(default_factory=list)
    """The libraries that a program finds imported."""
    error: str = ""
    """Why the helper did not start, if it did not."""

    @property
    def level(self) -> str:
        """`bubblewrap+landlock+seccomp`, `landlock+seccomp`, ..., or `limits` when only those are left."""
        layers = {"bubblewrap": self.has_bubblewrap, "landlock": self.has_landlock, "seccomp": self.has_seccomp}
        return "+".join(name for name, is_there in layers.items() if is_there) or "limits"
