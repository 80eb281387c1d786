"""Supervised cold start of the tiny model on synthetic traces, with everything but the model's own text masked."""

import random
from collections.abc import Iterator

import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from arpo_verl.tiny_world.world import Question, cold_start_question, trace

STRATEGIES = {"tools": 0.5, "guess": 0.3, "give_up": 0.2}
"""How often a trace follows which strategy. Reinforcement learning has the first to find."""
PEAK_LEARNING_RATE = 4e-3
BATCH_SIZE = 16
IGNORED = -100
"""The label that `transformers` leaves out of its loss."""


def traces(generator: random.Random, count: int) -> Iterator[tuple[Question, list[tuple[str, bool]]]]:
    """Yield questions and traces, as (text, is written by the model) pieces, in the mixture of strategies."""
    for strategy in generator.choices(list(STRATEGIES), list(STRATEGIES.values()), k=count):
        question, results = cold_start_question(generator)
        yield question, trace(question, results, strategy, generator)


def encode_trace(
    tokenizer: PreTrainedTokenizerFast, question: Question, pieces: list[tuple[str, bool]]
) -> tuple[list[int], list[int]]:
    """Return the token ids of a whole conversation and the labels that keep only what the model wrote."""
    messages = [{"role": "user", "content": question.text}]
    ids = list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))
    labels = [IGNORED] * len(ids)
    for text, is_written_by_model in [*pieces, (tokenizer.eos_token, True)]:
        piece = tokenizer.encode(text, add_special_tokens=False)
        ids += piece
        labels += piece if is_written_by_model else [IGNORED] * len(piece)
    return ids, labels


def train(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int) -> Iterator[float]:
    """Train on fresh traces and yield the loss of each step. AdamW, warm-up over a tenth, then a cosine decay."""
    generator = random.Random(f"cold start {seed}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps + 1, pct_start=0.1)
    model.train()
    for _ in range(steps):
        loss = model(**_batch(tokenizer, generator)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield loss.item()


def _batch(tokenizer: PreTrainedTokenizerFast, generator: random.Random) -> dict[str, torch.Tensor]:
    rows = [encode_trace(tokenizer, question, pieces) for question, pieces in traces(generator, BATCH_SIZE)]
    width = max(len(ids) for ids, _ in rows)
    return {
        "input_ids": torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in rows]),
        "labels": torch.tensor([labels + [IGNORED] * (width - len(ids)) for ids, labels in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows]),
    }
