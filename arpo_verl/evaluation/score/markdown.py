"""Tables in GitHub's Markdown, padded for reading in a terminal, and numbers with error bars."""

from collections.abc import Sequence

from arpo_verl.evaluation.score.metrics import Estimate


def table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """Return a table; its first `text_columns` columns are text and flush left, the others numbers and flush right."""
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*escaped, strict=True)]
    is_text = [index < text_columns for index in range(len(head))]
    padded = [
        [
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(row, widths, is_text, strict=True)
        ]
        for row in escaped
    ]
    rule = ["-" * width if left else "-" * (width - 1) + ":" for width, left in zip(widths, is_text, strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (padded[0], rule, *padded[1:]))


def percent(estimate: Estimate) -> str:
    """Return `62.5 ± 4.1`: a share in percent and its standard error, where it has one."""
    return number(Estimate(100 * estimate.mean, _scaled(estimate.standard_error), estimate.prompts), digits=1)


def number(estimate: Estimate | None, digits: int) -> str:
    """Return a number and its standard error, where it has one."""
    if estimate is None:
        return "-"
    error = "" if estimate.standard_error is None else f" ± {estimate.standard_error:.{digits}f}"
    return f"{estimate.mean:.{digits}f}{error}"


def _scaled(error: float | None) -> float | None:
    return None if error is None else 100 * error
