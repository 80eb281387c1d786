"""A sum of terms on the tree, of which the advantages of the family are made: each is a list of terms and a few words.

    A = sum over the terms of weight * (value - baseline) / scale

A term's value is the leaf's score (`unit: leaf`), one number for all turns of a leaf, or the turn's value (`unit:
node`), one number for all copies of a turn. `arpo_verl.advantages.tree.terms` has the blocks. GRPO is one term:

    arpo.advantage=term_sum '+arpo.advantage_kwargs.terms=[{unit: leaf, baseline: group, scale: std}]'
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from arpo_verl.advantages.tree.run_weights import is_silent, run_weights, separate_averages
from arpo_verl.advantages.tree.term import Term
from arpo_verl.advantages.tree.terms import TreeTerms
from arpo_verl.advantages.tree.token_weights import entropy_hat, entropy_z_weights, novelty_of_rows
from arpo_verl.advantages.tree.tree_batch import TreeBatch
from arpo_verl.advantages.tree.turn_signals import discounted_outcome, discounted_signal, normalised_signal

SILENT_TURNS = ("zero", "group", "mask")
TOKEN_WEIGHTS = ("none", "entropy_z")
CLIP_SCALES = ("none", "entropy_hat", "turn_signal")
NOVELTY = {"weight": 1.0, "cap": 0.5}


def term_sum(  # noqa: PLR0913  each is a word of its own in a configuration
    batch: TreeBatch,
    terms: Sequence[Mapping[str, Any]],
    score: str = "raw",
    value: str = "leaf_mean",
    multiplicity: str = "copies",
    silent_turns: str = "zero",
    whitened: bool = False,
    correlation: float | None = None,
    fork_weight: float | None = None,
    novelty: Mapping[str, float] | None = None,
    token_weight: str = "none",
    entropy_strength: float = 0.2,
    clip_scale: str = "none",
    entropy_quantile: float = 0.8,
    turn_strength: float = 0.3,
    epsilon: float = 1e-6,
) -> torch.Tensor | tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the sum of terms at all sampled tokens, with tensors for the loss where there are any.

    Args:
        batch: the leaves; `segment_ids` have to be known.
        terms: of each, the fields of `Term` that differ from its defaults.
        score, value, multiplicity, correlation, epsilon: see `TreeTerms`.
        silent_turns: what a turn without siblings gets of node terms: `zero`, what they are, `group`, of terms against
            parent, children or siblings the leaf's score less the group's mean, or `mask`, nothing of any term, and it
            is out of the loss and of its denominators.
        whitened: whether to bring the result to mean 0 and standard deviation 1 over the batch's sampled tokens.
        fork_weight: λ of `separate_averages`; None has one mean over all tokens.
        novelty: XRPO's bonus for improbable rows, min(λ(1 - η), κA) where A > 0, with `weight` λ and `cap` κ.
        token_weight: what multiplies A, `none` or `entropy_z`, of strength `entropy_strength`.
        clip_scale: what the loss gets for its own `clip_scale`: `entropy_hat`, with its quantile, or factors 1 + s (2
            sigmoid(z) - 1) of both ε by the normalised signal z of a turn (`turn_signal`), s being `turn_strength`.

    Returns:
        A; by name `entropy_hat`, `clip_scale_low`, `clip_scale_high`, `loss_mask`. All (batch, response_length).

    Raises:
        ValueError: a word is not known, or something that a term needs is not.
    """
    _check_words(silent_turns=silent_turns, token_weight=token_weight, clip_scale=clip_scale)
    tree = TreeTerms(batch, score, value, multiplicity, correlation, epsilon)
    listed = [Term(**settings) for settings in terms]
    by_run = _weighted(tree, _summed(tree, listed, silent_turns), novelty, whitened, fork_weight)
    advantages = tree.nodes.spread(by_run, batch.response_mask.shape, batch.dtype)
    if token_weight == "entropy_z":
        advantages = advantages * entropy_z_weights(batch, entropy_strength).to(batch.dtype)
    for_loss = _clip_scales(tree, listed, clip_scale, entropy_quantile, turn_strength)
    for_loss |= _loss_mask(tree) if silent_turns == "mask" else {}
    return (advantages, for_loss) if for_loss else advantages


def _check_words(**words: str) -> None:
    known = {"silent_turns": SILENT_TURNS, "token_weight": TOKEN_WEIGHTS, "clip_scale": CLIP_SCALES}
    for name, word in words.items():
        if word not in known[name]:
            raise ValueError(f"{name}={word!r}; expected one of {', '.join(known[name])}: change it")


def _summed(tree: TreeTerms, terms: Sequence[Term], silent_turns: str) -> torch.Tensor:
    """Return the sum of all terms in each run. Shape (R,)."""
    nodes = tree.nodes
    by_run = torch.zeros(len(nodes.run_row), dtype=torch.float64, device=tree.batch.prompt.device)
    for term in terms:
        if term.unit == "leaf":
            values = tree.of_leaves(term.baseline, term.scale)[nodes.run_row]
        else:
            values = _node_term(tree, term)[nodes.run_node]
            if silent_turns == "group" and term.is_against_siblings:
                values = torch.where(is_silent(nodes), tree.of_leaves("group", "none")[nodes.run_row], values)
        weights = run_weights(tree.batch, nodes, term)
        by_run += term.weight * (values if weights is None else values * weights)
    return by_run.masked_fill_(is_silent(nodes), 0.0) if silent_turns == "mask" else by_run


def _weighted(
    tree: TreeTerms,
    by_run: torch.Tensor,
    novelty: Mapping[str, float] | None,
    whitened: bool,
    fork_weight: float | None,
) -> torch.Tensor:
    """Return the sum of terms with what changes it run by run. Shape (R,)."""
    nodes = tree.nodes
    if novelty is not None:
        if not isinstance(novelty, Mapping) or not set(novelty) <= set(NOVELTY):
            raise ValueError(f"novelty={novelty!r}; expected a mapping of some of {', '.join(NOVELTY)}: correct it")
        chosen = {**NOVELTY, **novelty}
        bonus = novelty_of_rows(tree.batch, chosen["weight"])[nodes.run_row]
        by_run = torch.where(by_run > 0, by_run + torch.minimum(bonus, chosen["cap"] * by_run), by_run)
    by_run = by_run * tree.weights[nodes.run_row]
    if whitened:
        by_run = _whitened(by_run, nodes.piece_lengths[nodes.run_piece])
    return by_run if fork_weight is None else by_run * separate_averages(tree.batch, nodes, fork_weight)


def _clip_scales(
    tree: TreeTerms, terms: Sequence[Term], clip_scale: str, entropy_quantile: float, turn_strength: float
) -> dict[str, torch.Tensor]:
    """Return what the loss scales its bounds by."""
    batch, nodes = tree.batch, tree.nodes
    if clip_scale == "entropy_hat":
        return {"entropy_hat": entropy_hat(batch, nodes, entropy_quantile).to(batch.dtype)}
    if clip_scale == "turn_signal":
        of_turns = [term for term in terms if term.signal != "outcome"]
        if not of_turns:
            raise ValueError(
                "clip_scale=turn_signal without a term whose signal is one of turns; expected one with "
                "signal=turn_reward or info_gain: add it, or leave clip_scale out"
            )
        z, _ = normalised_signal(tree, of_turns[0])
        by_run = turn_strength * (2 * z.sigmoid() - 1)[nodes.run_node]
        scale = 1 + nodes.spread(by_run, batch.response_mask.shape, batch.dtype)  # 1 for rows outside of the trees
        return {"clip_scale_low": scale, "clip_scale_high": scale}
    return {}


def _loss_mask(tree: TreeTerms) -> dict[str, torch.Tensor]:
    """Return 0 for turns without siblings."""
    is_kept = (~is_silent(tree.nodes)).double()
    return {"loss_mask": tree.nodes.spread(is_kept, tree.batch.response_mask.shape, tree.batch.dtype)}


def _node_term(tree: TreeTerms, term: Term) -> torch.Tensor:
    if term.signal != "outcome":
        return discounted_signal(tree, term)
    values = tree.v if term.discount is None else discounted_outcome(tree, term.discount)
    return tree.of_nodes(values, term.baseline, term.scale)


def _whitened(values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return values with mean 0 and standard deviation 1 over tokens, of which each value stands for several."""
    number = tokens.sum().clamp(min=1)
    centred = values - (values * tokens).sum() / number
    variance = (centred**2 * tokens).sum() / (number - 1).clamp(min=1)
    return centred * torch.rsqrt(variance + 1e-8)
