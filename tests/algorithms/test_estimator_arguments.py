"""What people pass to the estimator: every unambiguous form gives the same advantages, the rest is refused by name."""

import dataclasses
import decimal
import types
import uuid

import numpy as np
import pandas as pd
import pytest
import torch

from arpo_verl.algorithms.arpo import compute_arpo_advantage

# Two prompts of two leaves; scores 0, 2 and 1, 5 without the standard deviation: -1, 1, -2, 2.
REWARDS = torch.tensor([[0, 0], [0, 2], [1, 0], [2, 3]])
ADVANTAGES = [[-1, -1], [1, 1], [-2, -2], [2, 2]]
# The leaves of the first prompt share their first token: its mean is 0.
SEGMENTS = torch.tensor([[1, 2], [1, 3], [4, 4], [5, 5]])
HARD = [[0, -1], [0, 1], [-2, -2], [2, 2]]


def advantages(mode: str = "soft", **changes) -> torch.Tensor:
    arguments = {
        "token_level_rewards": REWARDS.float(),
        "response_mask": torch.ones(4, 2),
        "index": ["a", "a", "b", "b"],
        "segment_ids": SEGMENTS,
        "mode": mode,
        "norm_by_std": False,
    }
    result, returns = compute_arpo_advantage(**(arguments | changes))
    assert returns is result
    return result


REAL_TYPES = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16]
REAL_TYPES += [torch.float32, torch.float64]


@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest.mark.parametrize("dtype", REAL_TYPES, ids=str)
def test_rewards_and_masks_of_every_type_give_the_same_advantages(dtype, mode):
    expected = {"soft": ADVANTAGES, "hard": HARD}[mode]
    result = advantages(mode, token_level_rewards=REWARDS.to(dtype))
    assert result.tolist() == expected
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    result = advantages(mode, response_mask=torch.ones(4, 2, dtype=dtype))
    assert result.tolist() == expected
    assert result.dtype == torch.float32


@pytest.mark.parametrize("norm_by_std", [True, False])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_rewards_that_are_truths_count_as_0_and_1(dtype, norm_by_std):
    rewards = torch.tensor([[False, True], [False, False], [False, False], [False, True]]).to(dtype)
    result = advantages(token_level_rewards=rewards, norm_by_std=norm_by_std, epsilon=0)
    half = 0.5**0.5 if norm_by_std else 0.5
    assert result[:, 0].tolist() == pytest.approx([half, -half, -half, half])


def test_a_mask_of_truths_hides_what_is_false():
    mask = torch.tensor([[True, False], [False, True], [True, True], [False, False]])
    assert advantages(response_mask=mask).tolist() == [[-1, 0], [0, 1], [-2, -2], [0, 0]]
    assert advantages("hard", response_mask=mask).tolist() == [[0, 0], [0, 1], [-2, -2], [0, 0]]


def test_half_precision_sums_neither_overflow_nor_round():
    # 2048 + 1 is no half precision number, nor is 65504 + 65504.
    rewards = torch.tensor([[2048, 1], [2048, 0], [65504, 65504], [65504, 65503]], dtype=torch.float16)
    result = advantages(token_level_rewards=rewards)
    assert result[:, 0].tolist() == [0.5, -0.5, 0, 0]


class Named:
    def __init__(self, name: str) -> None:
        self.name = name


NUMBER, OTHER_NUMBER = uuid.uuid4(), uuid.uuid4()
ONE, ANOTHER = Named("a"), Named("a")
PROMPTS = {
    "list": ["a", "a", "b", "b"],
    "tuple": ("a", "a", "b", "b"),
    "objects, as verl has them": np.array(["a", "a", "b", "b"], dtype=object),
    "numpy strings": np.array(["a", "a", "b", "b"]),
    "whole numbers": [7, 7, -1, -1],
    "numpy numbers": np.array([7, 7, 2**62, 2**62]),
    "numpy scalars and Python's": [np.int64(7), 7, np.str_("b"), "b"],
    "tensor": torch.tensor([3, 3, 0, 0]),
    "column": torch.tensor([[3], [3], [0], [0]]),
    "list of tensors": list(torch.tensor([3, 3, 0, 0])),
    "floats": [0.5, 0.5, 1.5, 1.5],
    "tuples": [("train", 1), ("train", 1), ("train", 2), ("train", 2)],
    "lists": [["train", 1], ["train", 1], ["val", 1], ["val", 1]],
    "prompts' tokens, of several lengths": [[1, 2], [1, 2], [1, 2, 3], [1, 2, 3]],
    "arrays of tokens": [np.array([1, 2]), np.array([1, 2]), np.array([1, 2, 3]), np.array([1, 2, 3])],
    "numbers and texts mixed": [1, 1, "1", "1"],
    "numbers, texts and tuples mixed": ["x", "x", (1, 2), (1, 2)],
    "bytes": [b"a", b"a", b"b", b"b"],
    "truths": [True, True, False, False],
    "uuids": [NUMBER, NUMBER, OTHER_NUMBER, OTHER_NUMBER],
    "objects": [ONE, ONE, ANOTHER, ANOTHER],
    "dictionary's values": {1: "a", 2: "a", 3: "b", 4: "b"}.values(),
    "array of pairs": np.array([[0, 1], [0, 1], [0, 2], [0, 2]]),
    "pandas column": pd.Series(["a", "a", "b", "b"]),
    "iterator": iter(["a", "a", "b", "b"]),
}


@pytest.mark.parametrize("index", PROMPTS.values(), ids=PROMPTS)
def test_prompts_may_be_named_by_anything_that_can_be_compared(index):
    assert advantages(index=index).tolist() == ADVANTAGES


def test_a_texts_length_and_a_numbers_type_do_not_join_prompts():
    # numpy would turn the numbers into texts, and cut the texts to one length.
    assert advantages(index=["1", 1, "1", 1]).tolist() == [[-0.5, -0.5], [-1.5, -1.5], [0.5, 0.5], [1.5, 1.5]]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, r"index is None, a NoneType; expected the prompt's id of each row"),
        ("aabb", r"index is 'aabb', a str; expected"),
        (b"aabb", r"a bytes; expected"),
        (7, r"index is 7, a int; expected"),
        ({"a"}, r"a set; expected"),
        ({"a": 1, "b": 2}, r"a dict; expected"),
        (np.array("a"), r"single value"),
        (torch.tensor(7), r"single value"),
        (["a", "a", "b"], r"got 3 indices for 4 rows"),
        (["a", "a", None, None], r"index\[2\] is None; expected an id"),
        ([("a", None), "a", "b", "b"], r"index\[0\] is None"),
        ([0.5, float("nan"), 1.0, 1.0], r"index\[1\] is nan"),
        ([pd.NA, pd.NA, 1, 1], r"index\[0\] is <NA>"),
        (pd.Series(["a", "a", None, "b"]), r"index\[2\] is (None|nan)"),
        ([decimal.Decimal("nan")] * 4, r"index\[0\] is Decimal\('NaN'\)"),
        (np.array(["2020", "NaT", "2020", "2020"], dtype="datetime64[D]"), r"index\[1\] is None"),
        (np.array([0, 0, np.nan, np.nan]), r"index\[2\] is nan"),
        ([{"id": 1}, {"id": 1}, {"id": 2}, {"id": 2}], r"index\[0\] is a dict, which can't be compared"),
        ([{1}, {1}, {2}, {2}], r"index\[0\] is a set"),
    ],
    ids=str,
)
def test_prompts_that_say_not_which_rows_belong_together_are_refused(index, message):
    with pytest.raises(ValueError, match=message):
        advantages(index=index)


EXCLUDED = [False, False, False, True]


@pytest.mark.parametrize(
    "excluded",
    [
        EXCLUDED,
        tuple(EXCLUDED),
        [0, 0, 0, 1],
        [0.0, 0.0, 0.0, 1.0],
        np.array(EXCLUDED),
        np.array(EXCLUDED, dtype=object).astype(bool),
        np.array([0, 0, 0, 1]),
        torch.tensor(EXCLUDED),
        torch.tensor([0, 0, 0, 1]),
        torch.tensor([0, 0, 0, 1], dtype=torch.uint8),
        torch.tensor([0, 0, 0, 1], dtype=torch.int8),
        torch.tensor([0.0, 0, 0, 1]),
    ],
    ids=lambda value: f"{type(value).__name__} {getattr(value, 'dtype', '')}",
)
def test_excluded_rows_may_be_truths_or_0_and_1(excluded):
    for mode, expected in {"soft": ADVANTAGES, "hard": HARD}.items():
        # One leaf of the second prompt is left: there is nothing to compare it with.
        assert advantages(mode, is_excluded=excluded).tolist() == [*expected[:2], [0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("excluded", "message"),
    [
        (3, r"is_excluded has the shape \(\); expected \(4,\)"),
        (True, r"is_excluded has the shape \(\)"),
        ([3], r"is_excluded has the shape \(1,\)"),
        ([0, 1], r"is_excluded has the shape \(2,\)"),
        ([0, 1, 2, 3], r"is_excluded holds other values than 0 and 1; .* not row numbers"),
        ([0, 0, 0, -1], r"is_excluded holds other values"),
        ([0, 0, 0, float("nan")], r"is_excluded holds other values"),
        ([[0], [0], [0], [1]], r"is_excluded has the shape \(4, 1\)"),
        (["no", "no", "no", "yes"], r"is_excluded is a list that is no array of numbers"),
        ([None, None, None, True], r"is_excluded is a list that is no array of numbers"),
        ({"a"}, r"is_excluded is a set that is no array of numbers"),
    ],
    ids=str,
)
def test_excluded_rows_that_are_no_truths_are_refused(excluded, message):
    with pytest.raises(ValueError, match=message):
        advantages(is_excluded=excluded)


@dataclasses.dataclass
class Algorithm:
    norm_adv_by_std_in_grpo: bool


@pytest.mark.parametrize(
    ("config", "is_divided"),
    [
        (None, True),
        ({}, True),
        ({"norm_adv_by_std_in_grpo": True}, True),
        ({"norm_adv_by_std_in_grpo": None}, True),
        ({"norm_adv_by_std_in_grpo": False}, False),
        (Algorithm(True), True),
        (Algorithm(False), False),
        (types.SimpleNamespace(), True),
    ],
    ids=str,
)
def test_verls_algorithm_group_decides_about_the_standard_deviation(config, is_divided):
    first = advantages(config=config, norm_by_std=True, epsilon=0)[0, 0].item()
    # Scores 0 and 2: the deviation is the root of 2.
    assert first == pytest.approx(-(0.5**0.5) if is_divided else -1)
    assert advantages(config=config, norm_by_std=False)[0, 0].item() == -1


def test_verl_can_call_the_function_as_an_estimator_of_its_own():
    from omegaconf import OmegaConf
    from verl.trainer.config.algorithm import AlgoConfig

    for config in (OmegaConf.create({"norm_adv_by_std_in_grpo": False}), AlgoConfig(norm_adv_by_std_in_grpo=False)):
        result, _ = compute_arpo_advantage(
            token_level_rewards=REWARDS.float(),
            response_mask=torch.ones(4, 2),
            config=config,
            index=np.array(["a", "a", "b", "b"], dtype=object),
        )
        assert result.tolist() == ADVANTAGES


def not_contiguous(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.repeat_interleave(2, dim=1)[:, ::2]


@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest.mark.parametrize(
    "changed",
    [
        not_contiguous,
        lambda tensor: tensor.t().contiguous().t(),
        lambda tensor: tensor.numpy(),
        lambda tensor: tensor.numpy()[::-1][::-1],
        lambda tensor: np.asfortranarray(tensor.numpy()),
        lambda tensor: tensor.tolist(),
        lambda tensor: tuple(map(tuple, tensor.tolist())),
        lambda tensor: tensor.float().requires_grad_(),
        lambda tensor: (2 * tensor.float().requires_grad_()) / 2,
    ],
    ids=["strided", "transposed", "numpy", "reversed", "columns first", "lists", "tuples", "a leaf", "a result"],
)
def test_layout_kind_and_gradients_of_the_arguments_do_not_matter(changed, mode):
    result = advantages(
        mode,
        token_level_rewards=changed(REWARDS),
        response_mask=changed(torch.ones(4, 2, dtype=torch.long)),
        segment_ids=changed(SEGMENTS),
    )
    assert result.tolist() == {"soft": ADVANTAGES, "hard": HARD}[mode]
    assert not result.requires_grad


def test_one_row_that_is_expanded_is_read_and_not_written():
    mask = torch.ones(1, 2).expand(4, 2)
    rewards, segments = REWARDS.float(), SEGMENTS.clone()
    for mode in ("soft", "hard"):
        advantages(mode, response_mask=mask, token_level_rewards=rewards, segment_ids=segments).mul_(9)
    assert (mask == 1).all()
    assert torch.equal(rewards, REWARDS.float()) and torch.equal(segments, SEGMENTS)


@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest.mark.parametrize(("rows", "width"), [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_an_empty_batch_gives_an_empty_result(rows, width, mode, dtype):
    empty = torch.zeros(rows, width, dtype=dtype)
    result, _ = compute_arpo_advantage(empty, empty, ["p"] * rows, empty.long(), mode, is_excluded=[0] * rows)
    assert result.shape == (rows, width)
    assert result.dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device beside the CPU")
@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_result_lies_where_the_rewards_do(mode, device):
    result = advantages(mode, token_level_rewards=REWARDS.to(device), index=torch.tensor([0, 0, 1, 1], device="cuda"))
    assert result.device.type == device
    assert result.tolist() == {"soft": ADVANTAGES, "hard": HARD}[mode]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_level_rewards": [[0, 1], [1]] * 2}, "token_level_rewards is a list that is no array of numbers"),
        ({"token_level_rewards": None}, "token_level_rewards is a NoneType that is no array"),
        ({"token_level_rewards": "0 1"}, "token_level_rewards is a str that is no array"),
        ({"token_level_rewards": [[None, 1]] * 4}, "token_level_rewards is a list that is no array"),
        ({"token_level_rewards": torch.zeros(4)}, r"'token_level_rewards': \(4,\).*expected one shape"),
        ({"token_level_rewards": torch.zeros(4, 2, 1)}, r"'token_level_rewards': \(4, 2, 1\)"),
        ({"token_level_rewards": torch.zeros(4, 2, dtype=torch.complex64)}, "expected real numbers"),
        ({"token_level_rewards": torch.zeros(4, 2).to_sparse()}, "token_level_rewards is a torch.sparse_coo tensor"),
        (
            {"token_level_rewards": torch.nested.nested_tensor([torch.zeros(2)] * 4, layout=torch.jagged)},
            "is a nested tensor",
        ),
        ({"response_mask": None}, "response_mask is a NoneType"),
        ({"response_mask": torch.ones(4, 3)}, r"'response_mask': \(4, 3\)"),
        ({"segment_ids": torch.ones(4, 3)}, r"'segment_ids': \(4, 3\)"),
        ({"segment_ids": SEGMENTS + 0.5}, "segment_ids holds numbers that are not whole"),
        ({"segment_ids": torch.full((4, 2), float("nan"))}, "segment_ids holds numbers that are not whole"),
        ({"segment_ids": SEGMENTS.bool()}, "segment_ids is of type torch.bool"),
        ({"segment_ids": [["a", "b"]] * 4}, "segment_ids is a list that is no array"),
        ({"mode": None}, "mode=None; expected one of hard, soft"),
        ({"mode": "HARD"}, "mode='HARD'; expected one of hard, soft"),
        ({"segment_ids": None}, "segment_ids=None; expected the ids of every token"),
        ({"epsilon": -1.0}, "epsilon=-1.0; expected a number of at least 0"),
        ({"epsilon": float("nan")}, "epsilon=nan"),
        ({"epsilon": None}, "epsilon=None"),
        ({"epsilon": "1e-6"}, "epsilon='1e-6'"),
        ({"norm_by_std": "false"}, "norm_by_std='false'; expected True or False"),
        ({"norm_by_std": None}, "norm_by_std=None"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_arguments_of_another_kind_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        advantages(**({"mode": "hard"} | change))
