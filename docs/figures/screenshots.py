"""Photographs the pages of the viewer that answer the four questions of docs/viewer.md. Needs playwright and chromium.

    python docs/figures/screenshots.py outputs/quickstart-arpo-seed0

Of the last step: its prompts by the spread of their rewards, the fork of the first of them whose siblings earn
different rewards, those siblings, and the step's time.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from arpo_verl.figures.tree import choose
from arpo_verl.record import RecordedPrompt, RecordedStep, read_steps
from arpo_verl.viewer.page import page_of
from arpo_verl.viewer.sources import source_of

FOLDER = Path(__file__).parent
SIZE = {"width": 1280, "height": 800}


def instructive_fork(step: RecordedStep) -> tuple[int, int, int]:
    """Return the place of a prompt, a leaf and the one that it forked from, whose rewards differ."""
    places = range(len(step.prompts))
    for place in sorted(places, key=lambda one: -spread(step.prompts[one])):
        prompt = step.prompts[place]
        rewards = {leaf.number: leaf.reward for leaf in prompt.leaves}
        for leaf in prompt.leaves:
            if leaf.parent is not None and rewards[leaf.parent] != leaf.reward:
                return place, leaf.number, leaf.parent
    sys.exit(f"no fork of step {step.step} changed a reward; expected one: choose another run")


def spread(prompt: RecordedPrompt) -> float:
    rewards = [leaf.reward for leaf in prompt.leaves if leaf.reward is not None]
    return max(rewards) - min(rewards)


def photograph(page: Page, address: str, step: RecordedStep) -> None:
    """Write the four pictures."""
    place, leaf, parent = instructive_fork(step)

    def go(where: str) -> None:
        page.goto("about:blank")
        page.goto(f"{address}#/{where}")
        page.wait_for_selector("main[data-ready]")

    def keep(name: str) -> None:
        page.wait_for_timeout(300)
        page.screenshot(path=FOLDER / f"viewer_{name}.png")
        print(FOLDER / f"viewer_{name}.png")

    go(f"step/{step.step}")
    page.get_by_role("button", name="spread").first.click()
    keep("spread")
    go(f"step/{step.step}/prompt/{place}")
    by_number = {one.number: one for one in step.prompts[place].leaves}
    forks = [decision.fork_token for decision in by_number[parent].decisions if decision.forks]
    points = page.locator(f".point.forked[aria-label^='Leaf {parent} '] circle")
    points.nth(forks.index(by_number[leaf].fork_token)).click()
    keep("fork")
    go(f"step/{step.step}/prompt/{place}/compare/{parent}/{leaf}")
    keep("siblings")
    go(f"step/{step.step}/timeline")
    keep("time")


def main() -> None:
    run = Path(sys.argv[1])
    program = shutil.which("chromium")
    if program is None:
        sys.exit("there is no chromium; expected Debian's: apt-get install chromium")
    step, _ = choose(read_steps(run), None, None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder, "view.html")
        file.write_bytes(b"".join(page_of(source_of(run))))
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        photograph(browser.new_page(viewport=SIZE), file.as_uri(), step)
        browser.close()


if __name__ == "__main__":
    main()
