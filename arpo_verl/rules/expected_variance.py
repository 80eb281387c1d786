"""Forks where that is expected to pay, as learnt from past trees: much variance for little cost.

Of N independent leaves the mean has the variance V / N at the cost N T. A second path from a fork point s takes half of
σ²(s) off the V of its root and costs t(s): to first order the logarithm of variance times cost falls by
(σ²(s) / 2V - t(s) / T) / N, and with a further one, to K + 1 paths, by (σ²(s) / K (K + 1) V - t(s) / T) / N. What is in
brackets is the fork's gain. Below other forks a path has but a share w of its root, one over the product of the numbers
of paths that leave them, and the first part of the gain counts w² times. Forks with a gain above 0 pay; where more
would than a tree has places for, a price keeps the places for those that gain most. σ²(s) is the variance of a leaf's
reward given the way to s, V the one given the prompt; they stand for those of the gradient. t(s) is what one leaf costs
from s to its end, T the whole of it. σ², V and t are fitted to what is known at a fork point by ridge regression, after
each step, on the trees of the last steps.

Forks that depend on what is seen tilt the means over leaves towards the states that fork. An advantage with
`multiplicity: inverse`, such as `arpo.advantage=term_sum` with the baseline `shrunk`, does not have that bias.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from arpo_verl.config import ArpoConfig
from arpo_verl.fork_model.features import features_of
from arpo_verl.fork_model.ridge import Example, RidgeSums, predicted
from arpo_verl.rollout.fork_outcome import ForkOutcome
from arpo_verl.rollout.rule import BranchingRule, ForkPoint, Watch, probability_of_a_fork
from arpo_verl.rollout.tree import Decision, Leaf

LEAST_SHARE = 0.05
"""The least variance and the least cost that are expected anywhere, as a share of their mean."""
SHARE = "share of the root"
ROUNDING = 1e-9
FITTED = ("variance", "total variance", "cost")


class ExpectedVariance(BranchingRule):
    """As many of the Z - 1 possible forks as are expected to pay; at a share of the fork points a coin of α for each.

    By the coins the fit sees all kinds of fork points for ever. Before anything is learnt, all decisions are theirs.
    """

    watches = frozenset({Watch.ROOT_START, Watch.AFTER_RESULT})

    def __init__(
        self,
        config: ArpoConfig,
        random_share: float = 0.2,
        steps: int = 20,
        ridge: float = 10.0,
        call_tokens: float = 0.0,
    ) -> None:
        """
        Args:
            config: the knobs.
            random_share: of the decisions that are made by coins, above 0 and at most 1.
            steps: how many of the last steps count, about: each further one counts 1 - 1 / steps times as much.
            ridge: the number of forks after which the fit is half believed.
            call_tokens: what a call costs, in sampled tokens.

        Raises:
            ValueError: a setting is outside its range.
        """
        super().__init__(config)
        self._random_share, self._kept = random_share, 1 - 1 / max(steps, 1)
        self._ridge, self._call_tokens = ridge, call_tokens
        for name, value, is_good, expected in (
            ("random_share", random_share, 0 < random_share <= 1, "above 0 and at most 1"),
            ("steps", steps, steps >= 1, "at least 1"),
            ("ridge", ridge, ridge > 0, "above 0"),
            ("call_tokens", call_tokens, call_tokens >= 0, "at least 0"),
        ):
            if not is_good:
                raise ValueError(f"arpo.rule_kwargs.{name}={value!r}; expected a number {expected}: change it")
        self._memory: Mapping[str, Any] | None = None

    def with_memory(self, memory: Mapping[str, Any]) -> "ExpectedVariance":
        informed = copy.copy(self)
        informed._memory = memory
        return informed

    def root_state(self) -> float:
        """Return w, the share of its root that a path has."""
        return 1.0

    def decide(self, point: ForkPoint) -> Decision:
        features = features_of(point) | {SHARE: point.leaf.rule_state or 1.0}
        alpha, candidates = self.config.base_probability, self.config.branch_factor - 1
        pays = self._forks_that_pay(point.leaf, features)
        by_coins = probability_of_a_fork(alpha, candidates)
        if pays is None or point.generator.random() < self._random_share:
            forks = sum(point.generator.random() < alpha for _ in range(candidates))
            limit = "coin"
        else:
            forks, limit = pays, "does_not_pay"
        point.leaf.rule_state = features[SHARE] / (1 + min(forks, point.places))
        random_share = 1.0 if pays is None else self._random_share
        mean = random_share * alpha * candidates + (1 - random_share) * (pays or 0)
        return Decision(
            forks,
            limit if forks < candidates else "branch_factor",
            features["entropy change"],
            mean / max(candidates, 1),
            fork_probability=random_share * by_coins + (1 - random_share) * bool(pays),
            features=features,
        )

    def _forks_that_pay(self, leaf: Leaf, features: Mapping[str, float]) -> int | None:
        """Return how many of the forks are expected to pay; None where that is not known."""
        if self._memory is None:
            return None
        sampled = sum(len(one.token_ids) for one in leaf.segments if one.is_sampled)
        before = sampled + self._call_tokens * leaf.tool_calls
        gains = self._gains(self._memory, [features], [before])[0]
        return int((gains > self._memory["price"] - ROUNDING).sum())

    def _gains(
        self, fits: Mapping[str, Any], features: Sequence[Mapping[str, float]], before: Sequence[float]
    ) -> np.ndarray:
        """Return the expected gain of each further fork at some points. Shape (points, Z - 1).

        Args:
            fits: what was learnt.
            features: of the points.
            before: what each has cost so far.
        """
        variance, total, after = (
            np.maximum(predicted(fits[name], features), float(fits[f"least {name}"])) for name in FITTED
        )
        paths = np.arange(1, self.config.branch_factor)
        shares = np.array([one.get(SHARE, 1.0) for one in features])
        of_variance, of_cost = shares**2 * variance / total, after / (np.array(before) + after)
        gains: np.ndarray = of_variance[:, None] / (paths * (paths + 1)) - of_cost[:, None]
        return gains

    def learn(self, memory: Mapping[str, Any] | None, outcomes: Sequence[ForkOutcome]) -> Mapping[str, Any] | None:
        """Fit the variances and the cost anew, with this step's decisions."""
        seen = [(one.decision.features, one) for one in outcomes if one.decision.features is not None]
        examples: dict[str, list[Example]] = {
            # A kind of fork point that seldom forks would else be seldom heard of.
            "variance": [
                (features, one.variance, 1 / (one.decision.fork_probability or 1.0))
                for features, one in seen
                if one.variance is not None
            ],
            "total variance": [
                (features, one.total_variance, 1.0) for features, one in seen if one.total_variance is not None
            ],
            "cost": [(features, self._cost(one.cost_after), 1.0) for features, one in seen],
        }
        learnt: dict[str, Any] = {}
        for name in FITTED:
            before = RidgeSums.from_memory(memory[f"sums of {name}"]) if memory else RidgeSums.none()
            sums = before.after(examples[name], self._kept) if seen else before
            if not sums.targets[0] > 0:  # nothing is known, or all rewards are equal
                return memory
            learnt |= {
                f"sums of {name}": sums.as_memory(),
                name: sums.fit(self._ridge),
                f"least {name}": LEAST_SHARE * float(sums.targets[0]) / sums.weight,
            }
        return learnt | {"price": self._price(learnt, seen) if seen else (memory or {})["price"]}

    def _price(self, fits: Mapping[str, Any], seen: Sequence[tuple[Mapping[str, float], ForkOutcome]]) -> float:
        """Return the least gain, of at least 0, at which this step's points would not have had more forks than places.

        Forks of the coins take places too. Where many gain the same, all of them fork, and the first have the places.
        """
        random_share = self._random_share
        by_coins = random_share * self.config.base_probability * (self.config.branch_factor - 1) * len(seen)
        left = sum(one.places for _, one in seen) - by_coins
        most = int(max(left, 0.0) / (1 - random_share)) if random_share < 1 else 0
        before = [self._cost(one.cost_before) for _, one in seen]
        gains = np.sort(self._gains(fits, [features for features, _ in seen], before).ravel())[::-1]
        return max(float(gains[most - 1]), 0.0) if 0 < most <= len(gains) else 0.0

    def _cost(self, tokens_and_calls: tuple[float, float]) -> float:
        tokens, calls = tokens_and_calls
        return tokens + self._call_tokens * calls

    def never_forks(self) -> str | None:
        if self.config.base_probability == 0:
            return "arpo.rule=expected_variance with base_probability=0: nothing forks before something is learnt"
        return super().never_forks()
