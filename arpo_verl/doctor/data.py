"""Checks of the files that a run reads: datasets, and of a model folder what can be seen without transformers."""

import json
from pathlib import Path

from arpo_verl.doctor.finding import DoctorInput, Finding, Status
from arpo_verl.preflight.dataset_check import check_dataset


def check_data_files(doctor_input: DoctorInput, key: str) -> list[Finding]:
    """Check the files of `data.<key>` as the pre-flight of a run does."""
    name = f"data.{key}"
    if not doctor_input.is_run:
        return [Finding(name, Status.SKIPPED, f"not given; {name}=... has it checked")]
    checked = check_dataset(doctor_input.config, key)
    if checked is None:
        return [Finding(name, Status.SKIPPED, "not to be read here; verl reads it")]
    rows = sum(file.rows for file in checked.values())
    found = [Finding(name, Status.OK, f"{rows} rows in verl's columns, all read")]
    doubts = [f"{file}: {warning}" for file, one in checked.items() for warning in one.warnings]
    return [Finding(name, Status.WARNING, doubt) for doubt in doubts] or found


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a model folder; none where it is no folder."""
    folder = folder.expanduser()
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]) if folder.is_dir() else []


def model_problem(folder: Path) -> str | None:
    """Return what is wrong with the files of a model folder, or None."""
    config = folder / "config.json"
    try:
        content = json.loads(config.read_text())
    except OSError:
        return f"{folder} has no config.json; expected a Hugging Face model folder: correct the path"
    except ValueError as error:
        return f"{config} is not JSON ({error}); expected a model's configuration: download it anew"
    if not isinstance(content, dict) or "model_type" not in content:
        return f"{config} has no model_type; expected a Hugging Face model's configuration: download it anew"
    if not weight_files(folder):
        return f"{folder} has no *.safetensors and no *.bin; expected weights: download the model whole"
    missing = _missing_shards(folder)
    if missing:
        return f"{folder} lacks {missing[0]} and {len(missing) - 1} more of its index; expected all: download it anew"
    return None


def _missing_shards(folder: Path) -> list[str]:
    """Return the weight files that an index names and that are not there."""
    names: set[str] = set()
    for index in folder.glob("*.index.json"):
        content = json.loads(index.read_text())
        names |= set(content.get("weight_map", {}).values())
    return sorted(name for name in names if not (folder / name).is_file())
