"""Checks of the machine: packages, /dev/shm, open files, memory, disk, Ray's port."""

import importlib.metadata
import os
import platform
import resource
import shutil
from pathlib import Path

from packaging.specifiers import SpecifierSet

from arpo_verl.doctor.data import weight_files
from arpo_verl.doctor.finding import DoctorInput, Finding, Status
from arpo_verl.preflight import machine_check
from arpo_verl.preflight.weight_bucket import raise_weight_bucket

SHOWN = ("arpo-verl", "verl", "torch", "vllm", "transformers", "ray")
GIB = 1 << 30
SMALL_SHARED_MEMORY = 2 * GIB
"""Docker gives 64 MB; NCCL between ranks and Ray's object store, which falls back to the disk, want more."""
FEW_OPEN_FILES = 8192
"""What Ray asks for (`ray/_private/worker.py`), which raises the soft limit up to the hard one itself."""
LITTLE_MEMORY = 4 * GIB
LITTLE_DISK = 5 * GIB
CHECKPOINT_RATIO = 6
"""A checkpoint of verl's has fp32 weights and both moments of Adam: 12 bytes for the 2 of a bf16 weight file."""
FULL_PERCENT = 95
"""How full a disk is when Ray stops to write objects to it (`RAY_local_fs_capacity_threshold`)."""


def check_versions(doctor_input: DoctorInput) -> list[Finding]:
    """Check Python, verl and vllm against what we need, and that verl will find the plug-in."""
    wanted = importlib.metadata.metadata("arpo-verl")["Requires-Python"]
    if platform.python_version() not in SpecifierSet(wanted):
        raise RuntimeError(f"Python {platform.python_version()} is running; expected {wanted}: use another interpreter")
    machine_check.check_versions(doctor_input.config)
    versions = {name: _version(name) for name in SHOWN}
    if "arpo" not in importlib.metadata.entry_points(group="verl.plugins").names:
        raise RuntimeError(
            "no entry point 'arpo' in the group verl.plugins; expected arpo_verl.plugin there, which verl imports: "
            "install arpo-verl anew"
        )
    shown = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [Finding("versions", Status.OK, f"Python {platform.python_version()}, {shown}")]


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise RuntimeError(
            f"{distribution} is not installed; expected any version: install anew by recipes/install_gpu.sh, or by "
            f"recipes/install.sh for a machine without a GPU"
        ) from None


def check_shared_memory(doctor_input: DoctorInput) -> list[Finding]:
    """Check the size of /dev/shm, with the weight bucket that a run of this model would have."""
    raised = raise_weight_bucket(doctor_input.config)
    machine_check.check_shared_memory(doctor_input.config)
    usage = shutil.disk_usage(machine_check.SHARED_MEMORY)
    found = f"{machine_check.SHARED_MEMORY} has {_gib(usage.free)} of {_gib(usage.total)} free"
    if usage.free < SMALL_SHARED_MEMORY:
        advice = f"expected at least {_gib(SMALL_SHARED_MEMORY)} for Ray and NCCL: docker run --shm-size=16g"
        return [Finding("shared memory", Status.WARNING, f"{found}; {advice}")]
    return [Finding("shared memory", Status.OK, f"{found}; {raised}" if raised else found)]


def check_open_files() -> list[Finding]:
    """Check how many files a process may open, once Ray has raised its limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"limit {soft}, which may be raised to {hard}"
    if hard != resource.RLIM_INFINITY and hard < FEW_OPEN_FILES:
        advice = f"expected at least {FEW_OPEN_FILES}: ulimit -Hn 65536 as root, or docker run --ulimit nofile=65536"
        return [Finding("open files", Status.WARNING, f"{found}; {advice}")]
    return [Finding("open files", Status.OK, found)]


def check_memory() -> list[Finding]:
    """Check the main memory that this machine or container has left."""
    available, total = available_memory()
    found = f"{_gib(available)} of {_gib(total)} available"
    if available < LITTLE_MEMORY:
        advice = f"expected at least {_gib(LITTLE_MEMORY)} for Ray, vLLM and the trainer: end other processes"
        return [Finding("memory", Status.WARNING, f"{found}; {advice}")]
    return [Finding("memory", Status.OK, found)]


def available_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """Return the available and the total bytes, those of the container (cgroup v2) where it has a limit."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    sizes = {name.rstrip(":"): int(size) << 10 for name, size, *_ in lines}
    available, total = sizes["MemAvailable"], sizes["MemTotal"]
    try:
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
        fields = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no limit is `max`
        return available, total
    reclaimable = int(fields.get("inactive_file", 0))
    return min(available, max(0, limit - used + reclaimable)), min(total, limit)


def check_disk(doctor_input: DoctorInput) -> list[Finding]:
    """Check the room for checkpoints and for Ray's files."""
    config = doctor_input.config
    checkpoints = _existing(Path(str(config.trainer.default_local_dir)).expanduser())
    free = shutil.disk_usage(checkpoints).free
    weights = sum(file.stat().st_size for file in weight_files(Path(str(config.actor_rollout_ref.model.path))))
    needed = max(LITTLE_DISK, CHECKPOINT_RATIO * weights)
    found = f"{_gib(free)} free for checkpoints in {checkpoints}"
    problems = []
    if free < needed:
        problems.append(
            f"expected {_gib(needed)} for one checkpoint: make room or set trainer.default_local_dir to another disk"
        )
    default = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    ray_folder = _existing(Path(config.ray_kwargs.ray_init.get("_temp_dir") or default))
    usage = shutil.disk_usage(ray_folder)
    percent = 100 * usage.used / (usage.used + usage.free)
    if percent >= FULL_PERCENT:
        problems.append(
            f"{ray_folder} is {percent:.0f} % full; expected less than {FULL_PERCENT} %, where Ray stops to write: "
            f"make room or set RAY_TMPDIR"
        )
    status = Status.WARNING if problems else Status.OK
    return [Finding("disk", status, "; ".join([found, *problems]))]


def check_port(doctor_input: DoctorInput) -> list[Finding]:
    """Check that Ray's dashboard can have its port."""
    machine_check.check_port(doctor_input.config)
    port = doctor_input.config.ray_kwargs.ray_init.get("dashboard_port")
    return [Finding("ray port", Status.OK, f"{port} is free" if port else "chosen by Ray")]


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that there is."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
