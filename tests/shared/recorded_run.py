"""A run's record without an engine: trees that the scheduler grows from a scripted model, written as a trainer does.

Words are tokens, so that tokens have texts of different lengths; special tokens end turns and open the prompt.
"""

import asyncio
import random
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from arpo_verl.config import ArpoConfig
from arpo_verl.record import RecordedPrompt, RecordedStep
from arpo_verl.record.building import RecordBuilder, Row
from arpo_verl.record.token_texts import TokenTexts
from arpo_verl.record.writing import write_step
from arpo_verl.rollout.leaf_record import LeafRecord
from arpo_verl.rollout.protocols import Generation, GenerationRequest, ToolAnswer, ToolCall
from arpo_verl.rollout.scheduler import PromptRollout
from arpo_verl.rollout.tag_syntax import Tags, TagSyntax
from arpo_verl.rollout.tree import Leaf
from arpo_verl.rollout.turns import RolloutServices, RolloutSettings
from arpo_verl.rules import build_rule

START, END = "<|start|>", "<|end|>"
BEGAN = 1_700_000_000.0
SENTENCE = (
    "the number of people who live there is known since then but its source says another thing and we should look at "
    "it again because both can't hold so first find which year they mean then compare what was counted"
)
WORDS = SENTENCE.split()


class Words:
    """A tokenizer of words, each with the blank before it."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {START: 0, END: 1}
        self.words = [START, END]
        self.special_ids = {0, 1}

    def encode(self, text: str) -> list[int]:
        pieces: list[str] = []
        for line in text.replace(START, f"\0{START}\0").replace(END, f"\0{END}\0").split("\0"):
            if line in (START, END):
                pieces.append(line)
                continue
            for number, word in enumerate(line.split(" ")):
                pieces += [f" {word}"] if number else [word] if word else []
        return [self._id(piece) for piece in pieces]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self.words[token] for token in token_ids)

    def _id(self, piece: str) -> int:
        if piece not in self.ids:
            self.ids[piece] = len(self.words)
            self.words.append(piece)
        return self.ids[piece]


class RandomModel:
    """Thinks, calls or answers at random, as often as the seed says."""

    def __init__(self, words: Words, seed: str, thought: int = 40) -> None:
        self._words, self._draw, self._thought = words, random.Random(seed), thought

    async def generate(self, request: GenerationRequest) -> Generation:
        draw = self._draw
        await asyncio.sleep(draw.random() / 500)
        text = " ".join(draw.choice(WORDS) for _ in range(draw.randint(self._thought // 4, self._thought)))
        kind = draw.random()
        if kind < 0.4:
            text = f"<think> {text} </think> <search> {draw.choice(WORDS)} </search>"
        elif kind < 0.6:
            text = f"<think> {text} </think> <python> print({draw.randint(2, 99)}**2) </python>"
        else:
            text = f"<think> {text} </think> <answer> {draw.randint(1, 3)} </answer>{END}"
        tokens = self._words.encode(text)[: request.max_tokens]
        entropies = [draw.expovariate(2.0) for _ in tokens]
        return Generation(
            tokens,
            [-draw.expovariate(2.0) for _ in tokens],
            entropies=entropies[: request.entropy_tokens],
            weight_versions=(3, 3),
            cached_tokens=len(request.token_ids) // 2,
        )


class RandomTools:
    """Answers after a while, and fails now and then."""

    def __init__(self, seed: str, size: int = 25) -> None:
        self._draw, self._size = random.Random(seed), size

    async def execute(self, call: ToolCall, state: dict, messages: Sequence[dict]) -> ToolAnswer:
        await asyncio.sleep(self._draw.random() / 200)
        if self._draw.random() < 0.15:
            return ToolAnswer("Error: the year is missing", "model_error")
        text = " ".join(self._draw.choice(WORDS) for _ in range(self._size))
        return ToolAnswer(text, "ok", is_cached=self._draw.random() < 0.3 if call.name == "search" else None)

    def can_fork(self, name: str) -> bool:
        return True


def grown(words: Words, prompt: str, seed: str, leaves: int = 8, thought: int = 40) -> list[Leaf]:
    """Return the leaves of one prompt's tree."""
    found: list[Leaf] = []

    async def keep(leaf: Leaf) -> None:
        found.append(leaf)

    config = ArpoConfig(
        initial_rollouts=max(1, leaves // 2),
        base_probability=0.4,
        probe_tokens=5,
        branch_timing="segment",
        max_tool_calls=4,
    )
    services = RolloutServices(
        RandomModel(words, f"{seed}/model", thought),
        RandomTools(f"{seed}/tools"),
        TagSyntax(Tags(("python", "search")), words.decode, words.encode, {words.ids[END]}),
        keep,
    )
    settings = RolloutSettings(words.encode(prompt), leaves, 4096, 50_000, seed)
    rollout = PromptRollout(settings, config, build_rule(config), services)
    with ThreadPoolExecutor(1) as threads:  # a test with a browser has an event loop in its own
        threads.submit(asyncio.run, rollout.run()).result()
    return sorted(found, key=lambda leaf: leaf.number)


def rows_of(words: Words, uid: str, prompt: str, leaves: Iterable[Leaf], seed: str) -> list[Row]:
    """Return the rows that a trainer has of a prompt's leaves."""
    draw, rows = random.Random(seed), []
    for leaf in leaves:
        reward = draw.choice([0.0, 0.1, 1.0])
        mask = np.array(leaf.response_mask)
        rows.append(
            Row(
                key=f"{uid}_{leaf.number}_0",
                prompt=uid,
                tree=uid,
                number=leaf.number,
                prompt_ids=words.encode(prompt),
                response_ids=leaf.token_ids,
                mask=mask,
                reward=reward,
                record=LeafRecord.from_leaf(leaf, 8),
                parts={"acc": float(reward == 1.0), "format": 1.0, "reason": "correct" if reward == 1.0 else "wrong"},
                advantages=np.where(mask != 0, reward - 0.4, 0.0),
                log_probs=np.array(leaf.logprobs),
                entropies=np.array([draw.expovariate(2.0) for _ in mask]),
                truth="2",
                source="scripted",
            )
        )
    return rows


def step_of(step: int, prompts: int, leaves: int = 8, thought: int = 40) -> tuple[RecordedStep, list[RecordedPrompt]]:
    """Return a step's record, and its prompts."""
    words = Words()
    rows: list[Row] = []
    for number in range(prompts):
        seed, uid = f"{step}/{number}", f"prompt-{step}-{number}"
        question = f"{START}user How many, in the year {1900 + number}?{END}{START}assistant "
        rows += rows_of(words, uid, question, grown(words, question, seed, leaves, thought), seed)
    began = min(one.times[0] for row in rows for one in row.record.segments if one.times)
    built = list(RecordBuilder(TokenTexts(words.decode, words.special_ids)).prompts(rows, began))
    last = max(one.times[1] for prompt in built for one in prompt.segments if one.times)
    seconds = {"gen": round(last + 0.01, 3), "old_log_prob": 0.01, "adv": 0.002, "update_actor": 0.05}
    return RecordedStep(step, BEGAN, seconds, ["WARNING: a tool was slow"] if step == 1 else (), prompts), built


def write_run(folder: Path, steps: int = 3, prompts: int = 6, leaves: int = 8, thought: int = 40) -> Path:
    """Write the record of a run and return its folder."""
    for step in range(1, steps + 1):
        write_step(folder / "rollouts" / f"{step}.jsonl", *step_of(step, prompts, leaves, thought))
    return folder
