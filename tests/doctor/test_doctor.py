"""The doctor's parts, one at a time: stages of checks, configurations, caches, corpora, accelerators, model folders."""

import json
import os
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from cached import PARIS, key, put
from omegaconf import OmegaConf

from arpo_tools.cache import SearchCache
from arpo_tools.search.open_index import has_index
from arpo_verl.doctor import corpus, data, machine
from arpo_verl.doctor import verl_checks as doctor_checks
from arpo_verl.doctor.cache import check_cache
from arpo_verl.doctor.check_program import run_stages
from arpo_verl.doctor.finding import (
    UNSET,
    DoctorCheck,
    DoctorInput,
    DoctorOptions,
    Finding,
    Stage,
    Status,
    from_line,
    line_of,
)
from arpo_verl.integration.settings import path_in_tools
from arpo_verl.preflight.compose import compose_config
from arpo_verl.preflight.tool_list import own_entries, verl_folder

GIB = 1 << 30
OK = Finding("good", Status.OK, "as it should be")


def reported(stages: list[Stage], limit_seconds: float = 5.0) -> list[Finding]:
    found: list[Finding] = []
    run_stages(stages, limit_seconds, lambda name, findings: found.extend(findings))
    return found


def doctor_input(*pairs: str, **options) -> DoctorInput:
    config = {
        "actor_rollout_ref": {
            "model": {"path": UNSET["actor_rollout_ref.model.path"]},
            "rollout": {"gpu_memory_utilization": 0.5, "multi_turn": {"tool_config_path": None}},
        },
        "data": {"train_files": UNSET["data.train_files"]},
        "trainer": {"device": "cuda", "n_gpus_per_node": 2},
    }
    return DoctorInput(OmegaConf.merge(config, OmegaConf.from_dotlist(list(pairs))), DoctorOptions(**options))


def raise_(error: Exception):
    raise error


def test_findings_and_inputs_survive_the_way_between_processes():
    assert from_line(line_of("a check", [OK, Finding("two", Status.FAILED, "a\nb")])) == (
        "a check",
        [OK, Finding("two", Status.FAILED, "a\nb")],
    )
    there = doctor_input("data.train_files=${oc.env:NOWHERE}/x.parquet", query="x")
    assert DoctorInput.from_json(there.to_json()) == there


def test_a_check_that_crashes_is_a_failed_one_and_the_others_run():
    crash = DoctorCheck("bad", lambda: [][0])
    found = reported([Stage([crash, DoctorCheck("good", lambda: [OK])])])
    assert found[1] == OK
    assert (found[0].check, found[0].status) == ("bad", Status.FAILED)
    assert "the check crashed: IndexError('list index out of range') in " in found[0].text
    assert "test_doctor.py" in found[0].text
    assert "report it as a defect" in found[0].text


@pytest.mark.parametrize("error", [ValueError("got x; expected y: do z"), OSError("got x; expected y: do z")])
def test_an_error_with_a_message_for_a_reader_is_shown_as_it_is(error):
    [found] = reported([Stage([DoctorCheck("bad", lambda: raise_(error))])])
    assert found == Finding("bad", Status.FAILED, "got x; expected y: do z")


def test_a_check_that_hangs_is_cut_off_and_the_others_are_not_held_up():
    started = time.monotonic()
    hang = DoctorCheck("hangs", lambda: time.sleep(60) or [])
    found = reported(
        [Stage([hang, DoctorCheck("good", lambda: [OK])]), Stage([DoctorCheck("good", lambda: [OK])])], 0.2
    )
    assert time.monotonic() - started < 10
    assert found[1:] == [OK, OK]
    assert (found[0].check, found[0].status) == ("hangs", Status.FAILED)
    assert found[0].text.startswith("not done within 0.2 s and cut off; expected an answer: see whether")


def test_an_import_that_fails_fails_the_checks_that_need_it_and_no_other():
    broken = Stage([DoctorCheck("needs it", lambda: [OK])], lambda: raise_(ImportError("libcuda.so.1")))
    found = reported([broken, Stage([DoctorCheck("good", lambda: [OK])])])
    assert found[1] == OK
    assert (found[0].check, found[0].status) == ("needs it", Status.FAILED)
    assert "libcuda.so.1" in found[0].text and "install it anew" in found[0].text


def test_the_values_that_mean_not_given_are_verls_own():
    config = compose_config("config", "ppo_trainer", [])
    assert {name: OmegaConf.select(config, name) for name in UNSET} == UNSET
    assert not DoctorInput(config, DoctorOptions()).is_run
    assert DoctorInput(compose_config("config", "ppo_trainer", ["data.train_files=x"]), DoctorOptions()).is_run


def test_a_preset_over_verls_configuration_is_composed_without_importing_verl(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "hydra:\n  searchpath: [pkg://verl.trainer.config]\ndefaults: [ppo_trainer, _self_]\ntrainer: {nnodes: 7}\n"
    )
    code = """
import sys
from arpo_verl.preflight.compose import PRESET, compose_config
mine = compose_config(sys.argv[1], "mine", ["trainer.n_gpus_per_node=3"])
print(mine.trainer.nnodes, mine.trainer.n_gpus_per_node, mine.algorithm.adv_estimator)
print(compose_config(*PRESET, ["platform=cpu"]).trainer.device)
print(compose_config("pkg://verl.trainer.config", "ppo_trainer", ["+arpo.rule=threshold"]).arpo.rule)
print([name for name in ("verl", "torch", "ray") if name in sys.modules])
"""
    output = subprocess.check_output([sys.executable, "-c", code, str(tmp_path)], text=True)
    assert output.splitlines() == ["7 3 gae", "cpu", "threshold", "[]"]


def test_the_composition_is_that_of_verls_own_command():
    import verl  # noqa: F401  registers the resolver that the preset uses
    from hydra import compose, initialize_config_module

    words = ["platform=cpu", "arpo.rule=threshold"]
    ours = compose_config("pkg://arpo_verl.config", "arpo_trainer", words)
    with initialize_config_module("arpo_verl.config", version_base=None):
        assert ours == compose("arpo_trainer", words)


def test_a_relative_config_path_is_read_where_hydra_reads_it():
    assert compose_config("config", "ppo_trainer", []).trainer.nnodes == 1
    with pytest.raises(ValueError, match=r"--config-path 'no/such' is no folder .* expected an absolute path"):
        compose_config("no/such", "ppo_trainer", [])


def test_our_tools_are_read_from_the_list_without_verl():
    entries = own_entries(path_in_tools("web_tools.yaml"))
    assert [entry.label for entry in entries] == ["python", "search (serper)", "browse"]
    assert entries[0].options() == {"timeout_seconds": 5, "memory_mb": 1024}
    assert (verl_folder() / "trainer" / "main_ppo.py").is_file()


def test_a_cache_that_does_not_exist_yet_is_not_made(tmp_path):
    [found] = check_cache(str(tmp_path / "new" / "search.sqlite"))
    assert found.status is Status.OK
    assert list(tmp_path.iterdir()) == []


def test_a_sound_cache_passes_and_is_left_as_it_is(tmp_path):
    path = tmp_path / "search.sqlite"
    cache = SearchCache(path)
    put(cache, key(), PARIS)
    cache.close()
    before = path.read_bytes()
    [found] = check_cache(str(path))
    assert found.status is Status.OK and "undamaged" in found.text
    assert path.read_bytes() == before


@pytest.mark.parametrize("spoil", [lambda content: b"x" * 100 + content[100:], lambda content: content[:5000]])
def test_a_damaged_cache_fails_and_is_not_set_aside(tmp_path, spoil):
    path = tmp_path / "search.sqlite"
    cache = SearchCache(path)
    cache.put_all([])
    put(cache, key(), PARIS)
    cache.close()
    path.write_bytes(spoil(path.read_bytes()))
    [found] = check_cache(str(path))
    assert found.status is Status.FAILED
    assert "is damaged (" in found.text and "move it away or restore a copy" in found.text
    assert not list(tmp_path.glob("*.damaged-*"))


def test_a_cache_in_a_folder_that_cannot_be_written_fails(tmp_path):
    (tmp_path / "file").write_text("")
    [found] = check_cache(str(tmp_path / "file" / "search.sqlite"))
    assert found.status is Status.FAILED
    assert "can't be written" in found.text and "make it writable" in found.text


def test_a_cache_on_a_network_disk_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr("arpo_verl.doctor.cache.network_file_system", lambda path: "nfs4")
    [found] = check_cache(str(tmp_path / "search.sqlite"))
    assert found.status is Status.WARNING
    assert "network file system nfs4; expected a local disk" in found.text


def test_a_large_corpus_without_an_index_is_sampled_and_not_indexed(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "QUICK_MB", 0)
    path = tmp_path / "corpus.jsonl"
    path.write_text(json.dumps({"contents": "Zorvia 48"}) + "\n")
    found = corpus.check_corpus("search (local)", {"corpus": str(path)}, lambda *arguments: OK)
    assert [finding.status for finding in found] == [Status.WARNING, Status.SKIPPED]
    assert "expected an index" in found[0].text
    assert not has_index(path)
    code = found[0].text.partition('python -c "')[2].rstrip('"')
    subprocess.run([sys.executable, "-c", code], check=True)
    assert has_index(path)
    assert corpus.check_corpus("search (local)", {"corpus": str(path)}, lambda *arguments: OK)[1] == OK


def test_a_broken_line_of_a_corpus_is_named(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"contents": "x"}\n{"text": "y"}\n')
    with pytest.raises(ValueError, match=r"corpus\.jsonl:2: got .*; expected \{\"title\": \.\.\., \"contents\""):
        corpus.check_corpus("search (local)", {"corpus": str(path)}, lambda *arguments: OK)


def gpus(free_gib: list[int], error: Exception | None = None) -> SimpleNamespace:
    """A `torch.cuda` with devices of 80 GiB."""
    return SimpleNamespace(
        init=lambda: raise_(error) if error else None,
        device_count=lambda: len(free_gib),
        mem_get_info=lambda device: (free_gib[device] * GIB, 80 * GIB),
        get_device_name=lambda device: "H100",
    )


def test_free_accelerators_pass():
    found = doctor_checks.cuda_finding(gpus([79, 78]), doctor_input("data.train_files=x"))
    assert found == Finding("devices", Status.OK, "2 x H100, 79 of 80 GiB free, 78 of 80 GiB free")


@pytest.mark.parametrize(
    ("cuda", "message"),
    [
        (gpus([], RuntimeError("Found no NVIDIA driver")), "Found no NVIDIA driver; expected a CUDA device: install"),
        (gpus([79]), "1 devices are seen; expected trainer.n_gpus_per_node=2: lower it"),
        (gpus([79, 10]), r"device 1 has 10 of 80 GiB free; expected the 40 GiB that vLLM takes: end the processes"),
    ],
)
def test_accelerators_that_cannot_work_are_refused(cuda, message):
    with pytest.raises(RuntimeError, match=message):
        doctor_checks.cuda_finding(cuda, doctor_input("data.train_files=x"))


def test_the_number_of_accelerators_matters_to_a_run_only():
    assert doctor_checks.cuda_finding(gpus([79]), doctor_input()).status is Status.OK


@pytest.mark.parametrize(
    ("variable", "device", "advice"),
    [("cpu", "cuda", "add platform=cpu"), ("", "cpu", "put VERL_PLATFORM=cpu into the environment")],
)
def test_half_a_choice_of_the_cpu_is_refused(monkeypatch, variable, device, advice):
    monkeypatch.setenv("VERL_PLATFORM", variable)
    with pytest.raises(ValueError, match=advice):
        doctor_checks.check_devices(doctor_input("data.train_files=x", f"trainer.device={device}"))


def test_the_memory_of_a_container_is_its_own(tmp_path):
    (tmp_path / "memory.max").write_text(f"{3 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{2 * GIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {GIB // 2}\n")
    available, total = machine.available_memory(tmp_path)
    # 3 - 2 GiB, and half a GiB of page cache that the kernel gives back
    assert total == 3 * GIB
    assert available <= 1.5 * GIB
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.available_memory(tmp_path)[1] > 0


def test_few_open_files_are_warned_of(monkeypatch):
    monkeypatch.setattr(machine.resource, "getrlimit", lambda kind: (256, 1024))
    [found] = machine.check_open_files()
    assert found.status is Status.WARNING
    assert "limit 256, which may be raised to 1024; expected at least 8192: ulimit -Hn" in found.text


MODEL = {"model_type": "llama"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"has no config\.json; expected a Hugging Face model folder"),
        ({"config.json": "{"}, "is not JSON .* download it anew"),
        ({"config.json": "[]"}, "has no model_type"),
        ({"config.json": MODEL}, r"has no \*\.safetensors and no \*\.bin; expected weights"),
        (
            {"config.json": MODEL, "a.safetensors": "", "model.safetensors.index.json": {"weight_map": {"w": "b.bin"}}},
            r"lacks b\.bin and 0 more of its index; expected all: download it anew",
        ),
    ],
)
def test_a_model_folder_that_is_not_whole_is_refused(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    assert re.search(message, str(data.model_problem(tmp_path)))


def test_a_whole_model_folder_passes(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(MODEL))
    (tmp_path / "model.safetensors").write_text("")
    assert data.model_problem(tmp_path) is None


def test_a_disk_without_room_for_a_checkpoint_is_warned_of(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_text("12345678")
    monkeypatch.setattr(machine, "CHECKPOINT_RATIO", 1 << 60)
    config = doctor_input(
        f"actor_rollout_ref.model.path={tmp_path}", f"trainer.default_local_dir={tmp_path}/a/b"
    ).config
    there = DoctorInput(OmegaConf.merge(config, {"ray_kwargs": {"ray_init": {}}}), DoctorOptions())
    [found] = machine.check_disk(there)
    assert found.status is Status.WARNING
    assert f"free for checkpoints in {tmp_path}; expected" in found.text
    assert "set trainer.default_local_dir to another disk" in found.text
    assert not os.path.exists(tmp_path / "a")
