"""How the judge's replies are read."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpo_verl.evaluation.judge.prompt import PROMPT, Case
from arpo_verl.evaluation.judge.reply import Verdict, read_verdict

CORRECT, WRONG, INVALID = Verdict.CORRECT, Verdict.WRONG, Verdict.INVALID


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("extracted_final_answer: Paris\nreasoning: the same\ncorrect: yes", CORRECT),
        ("extracted_final_answer: Rome\nreasoning: another city\ncorrect: no", WRONG),
        ("Correct: Yes.", CORRECT),
        ("CORRECT:NO", WRONG),
        ("**correct:** yes", CORRECT),
        ("**Correct**: **No**", WRONG),
        ("- correct: yes", CORRECT),
        ("3. correct: no", WRONG),
        ("> correct: `yes`", CORRECT),
        ('{\n  "reasoning": "same",\n  "correct": "yes"\n}', CORRECT),
        ("correct:\nyes", CORRECT),
        ("correct：yes", CORRECT),
        ("correct: no\r\nconfidence: 90%\r\n", WRONG),
        ("correct: yes, no difference in meaning", CORRECT),
        ("correct: yes and the year matches", CORRECT),
        ("correct: [yes]", CORRECT),
        # In other words and other shapes.
        ("correct: true", CORRECT),
        ("Correct? yes", CORRECT),
        ("The verdict is: correct", CORRECT),
        ("Is the answer correct? Yes", CORRECT),
        ("Is it correct? No.", WRONG),
        ("**My final verdict is:** wrong", WRONG),
        ("Is it correct: yes", INVALID),
        ("The answer is incorrect: yes", INVALID),
        ("The answer is not correct: yes", INVALID),
        ("Is the answer incorrect? No", INVALID),
        ("Correct?\nNo", WRONG),
        ("correct = no", WRONG),
        ("correct - yes", CORRECT),
        ("correct \N{RIGHTWARDS ARROW} no", WRONG),
        ("correct: Y", CORRECT),
        ("correct: FALSE", WRONG),
        ("correct: incorrect", WRONG),
        ("correct: right", CORRECT),
        ("correct: 1", CORRECT),
        ("Correct (yes/no): no", WRONG),
        ("Verdict: correct", CORRECT),
        ("final judgment: wrong", WRONG),
        ("| correct | yes |", CORRECT),
        ("<correct>yes</correct>", CORRECT),
        ("<correct>\nno\n</correct>", WRONG),
        ('{"correct": true}', CORRECT),
        ('{"correct": false}', WRONG),
        ('{"extracted_final_answer": "Rome", "reasoning": "correct: yes?", "correct": "no"}', WRONG),
        ('```json\n{"reasoning": "same", "correct": "yes"}\n```', CORRECT),
        ("{'correct': True}", CORRECT),
        ("{'reasoning': 'it\\'s another', 'correct': False}", WRONG),
        ('[{"correct": true}]', CORRECT),
        ('{"result": {"is_correct": false}}', WRONG),
        ('{"why": {"year": 1815}, "Correct": "YES"}', CORRECT),
        ('{"correct": 0}', WRONG),
        ('Here it is: {"correct": true} as you asked.', CORRECT),
        ('{"correct": true', CORRECT),
        ('{"correct": null}', INVALID),
        ('{"correct": "yes or no"}', INVALID),
        ('{"correct": true}\ncorrect: no', WRONG),
        ('correct: no\n{"correct": true}', CORRECT),
        ("correct: true or false", INVALID),
        ("correct: 10", INVALID),
        ("correct: 50%", INVALID),
        ("correct: not correct", INVALID),
        # Another word for correct.
        ("incorrect: yes", INVALID),
        ("Incorrect: yes\ncorrect: no", WRONG),
        ("not correct: yes", INVALID),
        ("is_correct: yes", INVALID),
        ("correctness: yes", INVALID),
        # Not at the beginning of a line.
        ("reasoning: whether it is correct: yes", INVALID),
        ("The answer is correct: yes it is.", INVALID),
        # Neither or both.
        ("", INVALID),
        ("The response matches the truth.", INVALID),
        ("yes", INVALID),
        ("correct:", INVALID),
        ("correct: unsure", INVALID),
        ("correct: not quite", INVALID),
        ("correct: yesterday", INVALID),
        ("correct: yes or no", INVALID),
        ("correct: yes|no", INVALID),
        ("correct: <yes> / <no>", INVALID),
        ("correct: yes, no", INVALID),
        # The last line decides.
        ("correct: yes or no\ncorrect: no", WRONG),
        ("correct: yes\nreasoning: but the year is another one\ncorrect: no", WRONG),
        ("extracted_final_answer: Rome\ncorrect: yes\nreasoning: it quotes a verdict\ncorrect: no", WRONG),
        ("correct: yes\ncorrect: maybe", INVALID),
        # Thoughts are no verdict.
        ("<think>correct: yes</think>\ncorrect: no", WRONG),
        ("correct: yes\n</think>\ncorrect: no", WRONG),
        ("<think>I guess\ncorrect: yes", INVALID),
        ("<think>\ncorrect: yes\n</think>\nI can't tell.", INVALID),
    ],
)
def test_a_reply_is_read_by_its_last_anchored_verdict(reply, verdict):
    assert read_verdict(reply) is verdict


@given(st.text(), st.sampled_from(["yes", "no"]))
def test_a_proper_last_line_decides_whatever_stands_before(text, word):
    assert read_verdict(f"{text}\n</think>\ncorrect: {word}").value == {"yes": "correct", "no": "wrong"}[word]


@pytest.mark.parametrize(
    "text",
    [" " * 200_000, "correct: yes" + "/" * 200_000, "1" * 200_000, "correct" + "*" * 200_000, '{"correct":' * 20_000],
)
def test_a_long_reply_is_read_at_once(text):
    start = time.thread_time()
    read_verdict(text)
    assert time.thread_time() - start < 2


def test_the_prompts_own_format_is_no_verdict():
    assert read_verdict(PROMPT) is INVALID


def test_the_prompt_holds_the_case():
    prompt = Case("Which {city}?", ("Paris", "Lutetia"), "the {0} city").prompt
    assert "Which {city}?" in prompt
    assert "- Paris\n- Lutetia\n" in prompt
    assert "the {0} city" in prompt
