"""Dates as answers write them: `March 23, 1932`, `23rd of March 1932`, `1932-03-23`, `1932年3月23日`."""

import re

_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_NUMBERS = {name[:length]: i for i, name in enumerate(_MONTHS, start=1) for length in (3, 4, len(name))}
_NUMBERS.pop("janu", None)
_MONTH = r"(?P<month>[a-z]{3,9})\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>[12]\d{3})"
_PATTERNS = [
    re.compile(pattern)
    for pattern in (
        rf"{_DAY}(?: of)?[ -]{_MONTH},?[ -]{_YEAR}",
        rf"{_MONTH} (?:the )?{_DAY},? {_YEAR}",
        rf"{_YEAR},? {_MONTH} {_DAY}",
        rf"{_MONTH},? (?:of )?{_YEAR}",
        rf"{_YEAR}[-/.](?P<number>\d{{1,2}})[-/.](?P<day>\d{{1,2}})",
        rf"{_YEAR} ?年 ?(?P<number>\d{{1,2}}) ?月(?: ?(?P<day>\d{{1,2}}) ?[日号])?",
    )
]
_NUMERIC = re.compile(r"(?P<one>\d{1,2})[-/.](?P<other>\d{1,2})[-/.](?P<year>[12]\d{3})")
_WEEKDAY = re.compile(r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day,? |(?:on|the) )+")
_LONGEST = 40


def date_of(text: str) -> str | None:
    """Return a date, or the month of a year, as ISO 8601 has it; None for anything else.

    Days and months in figures alone are read where only one order is possible.

    >>> date_of("Mar. 23rd, 1932"), date_of("23/03/1932"), date_of("3/4/1932"), date_of("May 1932")
    ('1932-03-23', '1932-03-23', None, '1932-05')
    """
    if len(text) > _LONGEST:
        return None
    text = _WEEKDAY.sub("", " ".join(text.lower().split()), count=1)
    if numeric := _NUMERIC.fullmatch(text):
        one, other = int(numeric["one"]), int(numeric["other"])
        month, day = (one, other) if other > 12 or one == other else (other, one)
        return _iso(numeric["year"], month, day) if max(one, other) > 12 or one == other else None
    for pattern in _PATTERNS:
        if match := pattern.fullmatch(text):
            parts = match.groupdict()
            month = _NUMBERS.get(parts["month"], 0) if "month" in parts else int(parts["number"])
            return _iso(parts["year"], month, int(parts.get("day") or 0))
    return None


def _iso(year: str, month: int, day: int) -> str | None:
    if not (1 <= month <= 12 and 0 <= day <= 31):
        return None
    return f"{year}-{month:02}-{day:02}" if day else f"{year}-{month:02}"
