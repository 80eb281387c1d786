"""How a program is found in a text that is none: fences of every usual kind, and indentation."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpo_tools.sandbox.program_text import likely_programs


def program_of(text: str) -> str:
    """Return the first likely program that is valid, as statements a line, without what has no effect."""
    for program in likely_programs(text):
        try:
            return ast.unparse(ast.parse(program))
        except SyntaxError:
            continue
    return ""


@pytest.mark.parametrize(
    "text",
    [
        "```python\nx = 1\nprint(x)\n```",
        "```Python\nx = 1\nprint(x)\n```",
        "```PY\nx = 1\nprint(x)\n```",
        "```python3\nx = 1\nprint(x)\n```",
        "``` python\nx = 1\nprint(x)\n```",
        "```\nx = 1\nprint(x)\n```",
        "````py\nx = 1\nprint(x)\n````",
        "~~~\nx = 1\nprint(x)\n~~~",
        "~~~python\nx = 1\nprint(x)\n~~~",
        "```{python}\nx = 1\nprint(x)\n```",
        "```{.python .numberLines}\nx = 1\nprint(x)\n```",
        '```python title="main.py"\nx = 1\nprint(x)\n```',
        "```python main.py\nx = 1\nprint(x)\n```",
        "```tool_code\nx = 1\nprint(x)\n```",
        "```python x = 1\nprint(x)\n```",
        "```python\r\nx = 1\r\nprint(x)\r\n```\r\n",
        "\n\n```python\n\nx = 1\n\nprint(x)\n\n```\n\n",
        "```python\nx = 1\nprint(x)```",
        "```python\nx = 1\nprint(x)",
        "x = 1\nprint(x)\n```",
        "x = 1\nprint(x)```",
        "  ```python\n  x = 1\n  print(x)\n  ```",
        "```python\n    x = 1\n    print(x)\n```",
        "   ```python\nx = 1\nprint(x)\n   ```",
        "Let me compute.\n```python\nx = 1\nprint(x)\n```\nThis prints 1.",
        "1. First:\n   ```python\n   x = 1\n   ```\n2. Then:\n   ```python\n   print(x)\n   ```",
        "```bash\npip install x\n```\n```python\nx = 1\nprint(x)\n```\n```text\n1\n```",
        "python\n```\nx = 1\nprint(x)\n```",
        "`x = 1; print(x)`",
        "```x = 1; print(x)```",
        "```python x = 1; print(x)```",
        ">>> x = 1\n>>> print(x)",
        ">>> x = 1\n>>> print(x)\n1\n",
        "    >>> x = 1\n    >>> print(x)\n    1",
        "```python\n>>> x = 1\n>>> print(x)\n```",
        "In [1]: x = 1\nIn [2]: print(x)",
        "<pre>x = 1\nprint(x)</pre>",
        "<pre><code class='python'>\nx = 1\nprint(x)\n</code></pre>",
        "<code>```python\nx = 1\nprint(x)\n```</code>",
        "    x = 1\n    print(x)",
        "\tx = 1\n\tprint(x)\n",
        "\n  \n   x = 1\n\n   print(x)\n  ",
        "    # a remark\n    x = 1\n# another\n    print(x)",
        "# a remark\n    x = 1\n    print(x)",
        "x = 1\n    print(x)",
        "x = 1\n\tprint(x)\n\t",
    ],
)
def test_the_program_is_found(text):
    assert program_of(text) == "x = 1\nprint(x)"


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("for i in range(3):\n        print(i)\n    print('end')", "for i in range(3):\n    print(i)\nprint('end')"),
        (">>> for i in range(3):\n...     print(i)\n...\n0\n1\n2\n>>> 5", "for i in range(3):\n    print(i)\n5"),
        ("    if x:\n        y()\n    else:\n        z()", "if x:\n    y()\nelse:\n    z()"),
        ("```python\ns = '''\n```\n'''\nprint(s)\n```", "s = '\\n```\\n'\nprint(s)"),
        ("````python\ns = '''\n```\n'''\nprint(s)\n````", "s = '\\n```\\n'\nprint(s)"),
        ("    s = '''\na\n'''\n    print(s)", "s = '\\na\\n'\nprint(s)"),
        ("    s = '''\n    a\n    '''\n    print(s)", "s = '\\na\\n'\nprint(s)"),
        ("    x = [\n  1,\n    ]\n    print(x)", "x = [1]\nprint(x)"),
        ("```python\na = 1\n```\nor\n```python\nb = a\n```", "a = 1\nb = a"),
    ],
)
def test_the_programs_own_structure_stays(text, program):
    assert program_of(text) == program


@pytest.mark.parametrize(
    "text", ["x = (", "```python\nx = (\n```", "```json\n{'a'\n```", "```", "if x:\ny", "hello there"]
)
def test_what_is_no_program_in_any_reading_stays_none(text):
    assert program_of(text) == ""


LINES = st.sampled_from(
    ["x = 1", "if x:\n    x += 2", "def f(a):\n    return [a,\n        x]", "'''\n  text\n'''", "# remark", ""]
)
OPENINGS = ["```python", "```", "~~~py", "````python3", "Text first.\n\n```python"]


@given(st.lists(LINES, min_size=1, max_size=6), st.sampled_from(OPENINGS), st.sampled_from(["", " ", "    ", "\t"]))
def test_any_program_is_found_in_any_fence_on_its_own_lines(parts, opening, margin):
    program = "\n".join([*parts, "end = 1"])
    fence = opening.rpartition("\n")[2].rstrip("python3")
    inner = "\n".join(margin + line for line in program.split("\n"))
    found = likely_programs(f"{opening}\n{inner}\n{fence}")[0]
    lines_before = opening.count("\n") + 1
    assert found.split("\n")[lines_before:-1] == program.split("\n")


@given(st.text(st.sampled_from("`~ \n\tpy:x(){}=#'\"")))
def test_any_text_has_readings_without_an_error_and_on_the_same_lines(text):
    for program in likely_programs(text):
        assert program.count("\n") <= text.count("\n")
