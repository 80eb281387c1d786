"""The input of the doctor's checks, and their findings."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum

from omegaconf import DictConfig, OmegaConf

from arpo_tools.redaction import redact

UNSET = {
    "data.train_files": "~/data/rlhf/gsm8k/train.parquet",
    "actor_rollout_ref.model.path": "~/models/deepseek-llm-7b-chat",
}
"""verl's own values (`trainer/config/data/legacy_data.yaml`, `model/hf_model.yaml`), which stand for "not given"."""


class Status(str, Enum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """A run works, but not as well as it could, or not certainly."""
    FAILED = "failed"
    """A run would not start, or end for this reason."""
    SKIPPED = "skipped"
    """The check was not made; the text says why."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    check: str
    status: Status
    text: str
    """What was found; of a failure what was got, what was expected and what to change. Credentials are redacted."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", redact(self.text))


def line_of(check: str, findings: list[Finding]) -> str:
    """Return the findings of a check as one line."""
    return json.dumps([check, [asdict(finding) for finding in findings]])


def from_line(line: str) -> tuple[str, list[Finding]]:
    """Return what `line_of` was given."""
    check, findings = json.loads(line)
    return check, [Finding(fields["check"], Status(fields["status"]), fields["text"]) for fields in findings]


@dataclass(frozen=True)
class DoctorOptions:
    """What the command line says about the checks themselves."""

    may_pay: bool = True
    """Whether a search service that costs money is called."""
    query: str | None = None
    """What the search tools are asked, instead of something that suits each."""
    url: str | None = None
    """What the page browser fetches; nothing by default."""
    check_seconds: float = 12.0
    """Time of one check, after which it is cut off."""


@dataclass(frozen=True)
class DoctorInput:
    """What the doctor checks: a configuration, and the options of the checks."""

    config: DictConfig
    options: DoctorOptions

    @property
    def is_run(self) -> bool:
        """Whether the configuration describes a run, or only a machine that is to have one."""
        return any(OmegaConf.select(self.config, key) != value for key, value in UNSET.items())

    def to_json(self) -> str:
        """Return it as one line; interpolations stay as they are."""
        return json.dumps({"config": OmegaConf.to_yaml(self.config), "options": asdict(self.options)})

    @classmethod
    def from_json(cls, line: str) -> "DoctorInput":
        """Return what `to_json` was called on."""
        fields = json.loads(line)
        config = OmegaConf.create(fields["config"])
        assert isinstance(config, DictConfig)
        return cls(config, DoctorOptions(**fields["options"]))


@dataclass(frozen=True)
class DoctorCheck:
    """One check, which ends by itself, is cut off, or crashes, without harm to the others."""

    name: str
    """Name of the line where the check does not get to give its own."""
    run: Callable[[], list[Finding]]
    """What to call. A ValueError, RuntimeError or OSError that it raises has the text of a line of the report."""


@dataclass(frozen=True)
class Stage:
    """Checks that run at the same time once their imports are done."""

    checks: list[DoctorCheck]
    load: Callable[[], None] = lambda: None
    """Does the slow imports, whose time is not a check's."""
