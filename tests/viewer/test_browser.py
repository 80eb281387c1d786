"""The viewer's pages in a real browser: trees, filters, links, keys, hostile content, both widths, living runs."""

import json
import threading
from pathlib import Path

import pytest
from browser import go, opened_browser, wait_until
from recorded_run import step_of, write_run

from arpo_verl.record import RecordedCall, RecordedLeaf, RecordedPrompt, RecordedSegment, RecordedStep, read_steps
from arpo_verl.record.writing import write_step
from arpo_verl.rollout.tree import Decision
from arpo_verl.viewer.command import _write
from arpo_verl.viewer.server import open_server
from arpo_verl.viewer.sources import source_of

pytestmark = pytest.mark.slow

PLACES = {
    "run": "",
    "step": "step/1",
    "tree": "step/1/prompt/0",
    "leaf": "step/1/prompt/0/leaf/1",
    "pair": "step/1/prompt/0/compare/0/1",
    "timeline": "step/1/timeline",
}


def written(folder: Path) -> Path:
    file = folder / "view.html"
    _write(source_of(folder), file)
    return file


@pytest.fixture(scope="module")
def browser():
    with opened_browser() as started:
        yield started


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), steps=2, prompts=5)


@pytest.fixture(scope="module")
def file(run) -> Path:
    return written(run)


@pytest.fixture
def page(browser):
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    yield opened
    opened.close()
    assert errors == []


def prompts_of(run: Path, step: int = 1) -> list[RecordedPrompt]:
    return next(one for one in read_steps(run) if one.step == step).prompts


def test_a_tree_has_each_segment_once_and_each_decision_where_it_was_made(page, run, file):
    for place, prompt in enumerate(prompts_of(run)):
        go(page, file, f"step/1/prompt/{place}")
        sampled = sum(segment.is_sampled for segment in prompt.segments)
        assert page.locator(".node.sampled").count() == sampled
        assert page.locator(".node.result").count() == len(prompt.segments) - sampled
        assert page.locator(".node.end").count() == len(prompt.leaves)
        decisions = [decision for leaf in prompt.leaves for decision in leaf.decisions]
        assert page.locator(".point.forked").count() == sum(decision.forks > 0 for decision in decisions)
        assert page.locator(".point.stayed").count() == sum(decision.forks == 0 for decision in decisions)
        assert page.locator(".point.refused").count() == sum(len(leaf.refusals) for leaf in prompt.leaves)


def test_a_fork_says_why_it_is_there(page, run, file):
    place, leaf, decision = next(
        (place, leaf, decision)
        for place, prompt in enumerate(prompts_of(run))
        for leaf in prompt.leaves
        for decision in leaf.decisions
        if decision.forks
    )
    go(page, file, f"step/1/prompt/{place}")
    page.locator(f".point.forked[aria-label^='Leaf {leaf.number} '] circle").first.click()
    said = page.locator(".panel").inner_text()
    assert "Forked once" in said
    assert f"{decision.entropy:.3f}".rstrip("0") in said and f"{decision.branch_score:.3f}".rstrip("0") in said
    assert f"1 of 1 draw is below P = {decision.branch_score:.3f}".rstrip("0") in said
    assert page.locator(".draws .draw").count() == len(decision.draws)


def test_a_node_shows_its_text_token_by_token(page, run, file):
    prompt = prompts_of(run)[0]
    go(page, file, "step/1/prompt/0")
    page.locator(".node.sampled").first.click()
    assert page.locator(".panel .text").inner_text() == prompt.segments[0].text
    page.select_option("#colouring", "entropies")
    assert page.locator(".panel .token").count() == prompt.segments[0].tokens
    assert "".join(page.locator(".panel .token").all_inner_texts()) == prompt.segments[0].text
    assert len({one.get_attribute("style") for one in page.locator(".panel .token").all()}) > 3


def test_arrows_move_in_a_tree_and_enter_opens_a_leaf(page, file):
    go(page, file, "step/1/prompt/0")
    page.locator(".tree").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".panel h2").inner_text() == "Prompt"
    page.keyboard.press("ArrowRight")
    assert page.locator(".panel h2").inner_text() == "Sampled tokens"
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert page.locator(".panel h2").inner_text().startswith("Leaf ")
    page.keyboard.press("Enter")
    page.wait_for_url("**/leaf/*")


def test_a_leaf_is_the_conversation_in_its_order(page, run, file):
    prompt = prompts_of(run)[0]
    leaf = prompt.leaves[1]
    go(page, file, "step/1/prompt/0/leaf/1")
    roles = ["Prompt", *("Model" if segment.is_sampled else "Tool" for segment in prompt.segments_of(leaf))]
    assert page.locator(".turn > summary > strong").all_inner_texts() == roles
    text = "".join(page.locator(".turn .text").all_text_contents())
    assert text == prompt.text + "".join(segment.text for segment in prompt.segments_of(leaf))
    for colouring in ("log_probs", "advantage", "trained"):
        page.select_option("#colouring", colouring)
    assert page.locator(".in-loss").count() == sum(segment.is_sampled for segment in prompt.segments_of(leaf))


def test_two_siblings_stand_side_by_side_from_where_they_part(page, run, file):
    place, prompt, fork = next(
        (place, prompt, leaf)
        for place, prompt in enumerate(prompts_of(run))
        for leaf in prompt.leaves
        if leaf.parent is not None
    )
    go(page, file, f"step/1/prompt/{place}/compare/{fork.parent}/{fork.number}")
    assert f"part at token {fork.fork_token}." in page.locator(".lead").inner_text()
    parent = next(leaf for leaf in prompt.leaves if leaf.number == fork.parent)
    shared = sum(a == b for a, b in zip(parent.segments, fork.segments, strict=False))
    turns = [page.locator(f"section[aria-label='Leaf {leaf.number}'] .turn").count() for leaf in (parent, fork)]
    assert turns == [len(parent.segments) - shared, len(fork.segments) - shared]


def rows_shown(page) -> list[int]:
    return [int(text) for text in page.locator("tbody th").all_inner_texts()]


def test_prompts_are_sorted_and_filtered(page, run, file):
    prompts = prompts_of(run)
    go(page, file, "step/1")
    page.get_by_role("button", name="calls").click()
    calls = [sum(len(segment.calls) for segment in prompt.segments) for prompt in prompts]
    assert rows_shown(page) == sorted(range(5), key=lambda place: (-calls[place], place))
    assert page.locator("th[aria-sort=descending]").inner_text() == "calls"
    page.get_by_role("button", name="#").click()
    status = "model_error"
    has = [any(call.status == status for one in prompt.segments for call in one.calls) for prompt in prompts]
    assert any(has) and not all(has)
    page.select_option("#filter-status", status)
    assert rows_shown(page) == [place for place, found in enumerate(has) if found]
    page.select_option("#filter-status", "all")
    page.keyboard.press("Escape")
    page.locator("#search").fill("in the year 1903")
    page.keyboard.press("Enter")
    wait_until(page, "document.querySelectorAll('tbody tr').length === 1")
    assert rows_shown(page) == [3]


def test_the_keyboard_goes_everywhere(page, file):
    go(page, file)
    for key in "jjk":
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.textContent") == "1"
    for key, expected in [("Enter", "#/step/1"), ("n", "#/step/2"), ("p", "#/step/1"), ("t", "#/step/1/timeline")]:
        page.keyboard.press(key)
        wait_until(page, f"location.hash === {json.dumps(expected)}")
        page.wait_for_selector("main[data-ready]")
    page.keyboard.press("/")
    wait_until(page, "document.activeElement.id === 'search'")
    go(page, file, "step/1/prompt/0/leaf/0")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.textContent").startswith("Prompt")
    page.keyboard.press("n")
    wait_until(page, "location.hash !== '#/step/1/prompt/0/leaf/0'")
    page.keyboard.press("u")
    wait_until(page, "location.hash === '#/step/1/prompt/0'")
    page.wait_for_selector("main[data-ready] .node.end")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    wait_until(page, "location.hash.startsWith('#/step/1/prompt/0/leaf/')")
    page.keyboard.press("u")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible() and "timeline" in page.locator("#help").inner_text()
    page.keyboard.press("Escape")
    wait_until(page, "!document.getElementById('help').open && document.activeElement === document.body")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.keyboard.press("d")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("place", PLACES)
def test_every_place_has_a_link_and_fits(browser, file, tmp_path, place, width):
    opened = browser.new_page(viewport={"width": width, "height": 844}, color_scheme="dark" if width < 400 else "light")
    go(opened, file, PLACES[place])
    assert opened.locator("[role=alert]").count() == 0
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.locator("h1").inner_text()
    for landmark in ("header", "nav", "main"):
        assert opened.locator(landmark).count() == 1
    opened.screenshot(path=tmp_path / f"{place}-{width}.png")
    assert (tmp_path / f"{place}-{width}.png").stat().st_size > 5000
    opened.close()


@pytest.mark.parametrize("place", ["step/9", "step/1/prompt/99", "step/1/prompt/0/leaf/77"])
def test_a_link_to_nothing_says_so(page, file, place):
    go(page, file, place)
    assert "There is no" in page.locator("[role=alert]").inner_text()


def test_what_is_shown_can_be_copied_as_json(page, run, file):
    go(page, file, "step/1/prompt/0/leaf/1")
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text }")
    page.get_by_role("button", name="Copy leaf as JSON").click()
    assert json.loads(page.evaluate("window.copied"))["key"] == prompts_of(run)[0].leaves[1].key


HOSTILE = (
    "<img src=x onerror=window.broken=1></script><script>window.broken=1</script><!-- \u202eevil\u202c \x07\x1b[31m \0"
)


def test_hostile_content_stays_text(page, tmp_path):
    large = HOSTILE + "x" * 1_000_000
    prompt = RecordedPrompt(
        HOSTILE,
        HOSTILE,
        [
            RecordedSegment(HOSTILE, 3, times=(0.0, 1.0), watched=[1.0]),
            RecordedSegment(large, 9, is_sampled=False, calls=[RecordedCall(HOSTILE, HOSTILE, 1.0, HOSTILE)]),
        ],
        [
            RecordedLeaf(
                HOSTILE,
                0,
                [0, 1],
                1.0,
                {HOSTILE: HOSTILE},
                stop_reason=HOSTILE,
                decisions=[Decision(1, HOSTILE, 1.0, 0.5, 1.0, fork_token=3, features={HOSTILE: 1.0}, draws=[0.1])],
            ),
        ],
        truth=HOSTILE,
        source=HOSTILE,
    )
    write_step(tmp_path / "1.jsonl", RecordedStep(1, 5.0, {HOSTILE: 1.0}, [HOSTILE], 1), [prompt])
    file = written(tmp_path)
    places = {**PLACES, "leaf": "step/1/prompt/0/leaf/0", "pair": "step/1/prompt/0/compare/0/0"}
    for name, place in places.items():
        go(page, file, place)
        assert page.locator("[role=alert]").count() == 0, name
        for node in page.locator(".node").all():
            node.focus()
        assert page.evaluate("window.broken") is None, name
        assert page.locator("img").count() == page.locator("main script").count() == 0
        shown = page.locator("body").inner_text()
        assert not {"\u202e", "\u202c", "\x07", "\x1b"} & set(shown), name
        assert name in ("pair", "timeline", "run") or "⟨U+202E⟩evil" in shown, name
    go(page, file, places["leaf"])
    assert page.locator(".turn.tool").get_attribute("open") is None  # a long result is folded
    page.locator(".turn.tool > summary").click()
    page.get_by_role("button", name="Show all").click()
    assert page.locator(".turn.tool .text").evaluate("node => node.textContent.length") > 1_000_000


def test_a_served_page_follows_a_run(page, tmp_path):
    write_run(tmp_path, steps=1, prompts=2)
    with open_server(source_of(tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            page.wait_for_selector("main[data-ready]")
            assert page.locator("tbody tr").count() == 1
            write_step(tmp_path / "rollouts" / "2.jsonl", *step_of(2, 3))
            wait_until(page, "document.querySelectorAll('tbody tr').length === 2")
            page.locator("tbody th a").last.click()
            page.wait_for_url("**/step/2")
            wait_until(page, "document.querySelectorAll('tbody tr').length === 3")
        finally:
            server.shutdown()
            thread.join()
