"""How large the viewer's page of 10 000 leaves of 2 000 tokens is, and how soon the browser shows it.

    python tests/benchmarks/viewer_page.py          # 10 000 leaves of about 2 000 tokens in one step
    python tests/benchmarks/viewer_page.py 1000

The trees are grown by a scripted model from random words, whose numbers of tokens are spread as widely as can be, so
that both are harder to pack than a real model's. 40 trees are grown and repeated; each is packed for itself.
"""

import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))

from browser import opened_browser, wait_until
from recorded_run import step_of

from arpo_verl.record import RecordedStep
from arpo_verl.record.writing import write_step
from arpo_verl.viewer.page import page_of
from arpo_verl.viewer.sources import source_of

LEAVES, GROWN, THOUGHT = 16, 40, 1500


def main() -> None:
    leaves = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    prompts = -(-leaves // LEAVES)
    _, grown = step_of(1, GROWN, LEAVES, THOUGHT)
    with tempfile.TemporaryDirectory() as folder:
        record, page = Path(folder) / "1.jsonl", Path(folder) / "view.html"
        many = [replace(grown[place % GROWN], uid=f"prompt {place}") for place in range(prompts)]
        write_step(record, RecordedStep(1, size=prompts), many)
        tokens = [
            sum(prompt.segments[place].tokens for place in leaf.segments) for prompt in many for leaf in prompt.leaves
        ]
        text = sum(len(one.text.encode()) for prompt in many for one in (prompt, *prompt.segments))
        began = time.monotonic()
        with page.open("wb") as file:
            for part in page_of(source_of(record)):
                file.write(part)
        seconds = time.monotonic() - began
        print(f"{len(tokens)} leaves of {sum(tokens) / len(tokens):.0f} tokens, {text / 1e6:.0f} MB of text")
        size = record.stat().st_size
        print(f"record {size / 1e6:.0f} MB, {size / text:.2f} times its text")
        print(f"page   {page.stat().st_size / 1e6:.0f} MB, written in {seconds:.1f} s, load {os.getloadavg()[0]:.1f}")
        open_in_browser(page)


def open_in_browser(page: Path) -> None:
    """Print how long each place takes to be drawn."""
    with opened_browser() as browser:
        opened = browser.new_page()
        for name, place in (("run", ""), ("step", "step/1"), ("tree", "step/1/prompt/7"), ("time", "step/1/timeline")):
            began = time.monotonic()
            if name == "run":
                opened.goto(f"{page.as_uri()}#/")
            else:
                opened.evaluate(f"location.hash = '#/{place}'")
                wait_until(opened, f"location.hash === '#/{place}'")
            wait_until(opened, "document.querySelector('main').dataset.ready === 'yes'")
            print(f"{name:5} {time.monotonic() - began:5.2f} s")


if __name__ == "__main__":
    main()
