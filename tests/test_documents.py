"""README, docs/ and what is written for those who carry the package on: links, lengths, tables, jobs."""

import ast
import re
import shlex
import subprocess

import pytest
import yaml
from page_links import DOCUMENTS, ROOT, broken_links

import arpo_verl
from arpo_verl.figures import tree
from arpo_verl.figures.drawing import save
from arpo_verl.record import read_steps

DOCS = ROOT / "docs"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_the_readme_has_at_most_700_words():
    assert len((ROOT / "README.md").read_text().split()) <= 700


def test_the_readme_says_what_has_not_run_on_a_gpu_before_anything_else_is_claimed():
    text = (ROOT / "README.md").read_text()
    assert 0 < text.index("Nothing has been run on a GPU") < text.index("## ")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(document):
    assert list(broken_links(document, document.read_text())) == []


def test_a_broken_link_is_found():
    text = "[x](#why) [y](#c) [z](none.md) [t](docs/train.md#install) `[r](q.md)`\n```\n[code](none.md)\n```\n"
    readme = ROOT / "README.md"
    assert list(broken_links(readme, text)) == ["#c", "none.md"]


def test_every_document_of_docs_is_reached_from_the_readme_or_the_list_of_algorithms():
    listed = (ROOT / "README.md").read_text() + (DOCS / "algorithms" / "README.md").read_text()
    assert [page.name for page in DOCS.rglob("*.md") if f"{page.name})" not in listed] == []


def test_the_sites_navigation_names_files_that_there_are():
    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        entries = entry.values() if isinstance(entry, dict) else entry
        return [page for one in entries for page in pages(one)]

    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    home = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
    found = [home.get(page, page) for page in pages(navigation)]
    assert [page for page in found if not (DOCS / page).exists() and not (ROOT / page).exists()] == []
    assert {page.name for page in DOCS.glob("*.md")} <= set(found)


def test_the_figure_of_the_readme_is_drawn_from_its_record(tmp_path):
    record = DOCS / "figures" / "quickstart_prompt"
    drawn = tmp_path / "tree.svg"
    step, prompt = tree.choose(read_steps(record), None, None)
    save(lambda figure: tree.draw(figure, step, prompt), tree.size(prompt), drawn)
    assert drawn.read_text() == (DOCS / "figures" / "tree.svg").read_text()
    third, fourth = (next(leaf for leaf in prompt.leaves if leaf.number == number) for number in (3, 4))
    assert (third.reward, fourth.reward, fourth.parent) == (0.0, pytest.approx(1.1), 3)
    forked = [seen.entropy for seen in third.decisions if seen.fork_token == fourth.fork_token]
    assert forked == [pytest.approx(0.65, abs=0.005)]


METRIC = re.compile(r"(arpo|tools|stop|reward|tree|replay|turn_reward|info_gain|hint)/[a-z_0-9/]*[a-z_0-9]")


def logged_metrics() -> set[str]:
    """Return the names that stand in the code as whole texts."""
    found = set()
    for folder in ("rollout", "integration", "diagnostics", "config", "replay", "turn_rewards"):
        for file in (ROOT / "arpo_verl" / folder).rglob("*.py"):
            constants = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant))
            found |= {one.value for one in constants if isinstance(one.value, str) and METRIC.fullmatch(one.value)}
    return found


def test_every_metric_whose_name_stands_in_the_code_is_in_a_table():
    pages = "".join((DOCS / name).read_text() for name in ("metrics.md", "diagnostics.md", "replay.md", "rewards.md"))
    logged = logged_metrics()
    assert len(logged) > 15
    assert sorted(name for name in logged if not is_listed(name, pages)) == []


def is_listed(name: str, pages: str) -> bool:
    """Whether a table has the name, a name that begins with it, or its last part (`a/b`, `.../c`)."""
    last = name.rsplit("/", 1)[-1]
    return any(f"`{listed}" in pages for listed in (name, f".../{last}`", f"{last}`", f"{name.split('/')[0]}/{{"))


def test_the_number_of_algorithms_in_the_readme_is_that_of_the_presets_that_run():
    files = (ROOT / "arpo_verl" / "presets").glob("*.yaml")
    available = [file for file in files if "unavailable" not in yaml.safe_load(file.read_text())]
    assert f"{len(available)} algorithms such as" in (ROOT / "README.md").read_text()


def workflow_commands() -> list[str]:
    """Return the command lines of all workflows, a matrix's jobs one by one."""
    commands = []
    for file in WORKFLOWS:
        for job in yaml.safe_load(file.read_text())["jobs"].values():
            names = job.get("strategy", {}).get("matrix", {}).get("job", [""])
            lines = [step["run"] for step in job["steps"] if "run" in step]
            commands += [line.replace("${{ matrix.job }}", name) for line in lines for name in names]
    return commands


def test_every_command_of_the_workflows_is_a_job_that_there_is():
    commands = {tuple(shlex.split(line)) for line in workflow_commands()}
    jobs = set(re.findall(r"(?m)^  ([a-z]+)\)$", (ROOT / ".ci" / "checks.sh").read_text()))
    assert commands == {("bash", ".ci/checks.sh", job) for job in jobs}
    assert jobs == {"lint", "types", "fast", "slow", "wheel", "docs", "tag"}


def test_the_files_that_jobs_and_hooks_name_are_there():
    text = (ROOT / ".ci" / "checks.sh").read_text() + (ROOT / ".pre-commit-config.yaml").read_text()
    named = set(re.findall(r"(?:recipes|tests|docs)/[\w./-]+\.(?:sh|py|txt)", text))
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []


def check(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / ".ci" / "checks.sh"), *words]
    return subprocess.run(command, env={"PATH": "/usr/bin:/bin", **variables}, capture_output=True, text=True)


def test_a_release_is_the_version_of_the_package_and_has_its_section():
    version = arpo_verl.__version__
    assert check("tag", TAG=f"v{version}").returncode == 0
    refused = check("tag", TAG="v9.9")
    assert (refused.returncode, f"the tag is v9.9; expected v{version}" in refused.stderr) == (1, True)
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version


def test_a_job_that_there_is_not_is_refused():
    refused = check("lnit")
    assert (refused.returncode, "got 'lnit'; expected lint" in refused.stderr) == (2, True)


def test_workflows_hold_no_secret_and_the_issue_form_asks_for_the_doctor():
    assert [file.name for file in WORKFLOWS if "secrets." in file.read_text()] == []
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "report.yml").read_text())
    [doctor] = [field for field in form["body"] if field["id"] == "doctor"]
    assert "arpo-verl doctor" in doctor["attributes"]["label"] and doctor["validations"] == {"required": True}
