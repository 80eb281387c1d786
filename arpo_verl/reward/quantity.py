"""Numbers, and the units and currencies that answers write beside them."""

import re
from fractions import Fraction

LONGEST_NUMBER = 200
"""Characters; converting a longer one costs time, and is refused by Python from some length on."""
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d{1,2}(?:,\d{2})+,\d{3}|\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)(?:(?P<whole>\d+) +(?P<part>\d+/[1-9]\d*)"
    rf"|(?P<decimal>{_DIGITS}(?:\.\d*)?|\.\d+)(?:[eE](?P<exponent>[+-]?\d{{1,3}})|/(?P<denominator>[1-9]\d*))?)"
)

CURRENCIES = {
    "$": "dollar",
    "€": "euro",
    "£": "pound sterling",
    "¥": "yen",
    "₹": "rupee",
    "₽": "ruble",
    "₩": "won",
    "₪": "shekel",
    "₿": "bitcoin",
    "฿": "baht",
}
_UNITS = {
    "dollar": "dollars usd",
    "euro": "euros eur",
    "pound sterling": "gbp",
    "yen": "jpy",
    "rupee": "rupees inr",
    "ruble": "rubles rub",
    "won": "krw",
    "percent": "% pct percentage",
    "kilometer": "km kms kilometers kilometre kilometres",
    "meter": "m meters metre metres",
    "centimeter": "cm cms centimeters centimetre centimetres",
    "millimeter": "mm millimeters millimetre millimetres",
    "mile": "miles mi",
    "foot": "feet ft",
    "inch": "inches",
    "yard": "yards yd",
    "square kilometer": "km2 km^2",
    "square meter": "m2 m^2 sqm",
    "square centimeter": "cm2 cm^2",
    "cubic meter": "m3 m^3",
    "cubic centimeter": "cm3 cm^3",
    "kilogram": "kg kgs kilograms",
    "gram": "g grams",
    "milligram": "mg milligrams",
    "tonne": "tonnes",
    "ton": "tons",
    "pound": "pounds lb lbs",
    "ounce": "ounces oz",
    "liter": "l liters litre litres",
    "milliliter": "ml milliliters millilitre millilitres",
    "second": "s sec secs seconds",
    "minute": "min mins minutes",
    "hour": "h hr hrs hours",
    "day": "days",
    "week": "weeks",
    "month": "months",
    "year": "yr yrs years",
    "kilometer per hour": "km/h kmh kph km/hr",
    "mile per hour": "mph",
    "meter per second": "m/s",
    "degree": "° deg degrees",
    "degree celsius": "°c celsius",
    "degree fahrenheit": "°f fahrenheit",
    "radian": "rad radians",
    "hertz": "hz",
    "kilohertz": "khz",
    "megahertz": "mhz",
    "gigahertz": "ghz",
    "kilobyte": "kb",
    "megabyte": "mb",
    "gigabyte": "gb",
    "terabyte": "tb",
    "watt": "w watts",
    "kilowatt": "kw kilowatts",
    "megawatt": "mw megawatts",
    "joule": "j joules",
    "volt": "v volts",
    "kelvin": "k",
    "newton": "n newtons",
    "hectare": "ha hectares",
    "acre": "acres",
    "cent": "cents",
}
UNITS = {alias: unit for unit, aliases in _UNITS.items() for alias in (unit, f"{unit}s", *aliases.split())}
"""How a unit is written, in small letters -> its name."""
UNITS.update({"kilometers per hour": "kilometer per hour", "miles per hour": "mile per hour",
              "meters per second": "meter per second", "square kilometers": "square kilometer",
              "square kilometres": "square kilometer", "square metres": "square meter",
              "degrees celsius": "degree celsius", "degrees fahrenheit": "degree fahrenheit"})  # fmt: skip
MAGNITUDES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
"""Word -> power of ten."""


def number(text: str) -> Fraction | None:
    """Return the value of a plain number, or None.

    It may have a sign, thousands separators, decimals, an exponent or a denominator, or be a mixed number.

    >>> number("-1,000.5"), number("1 1/2"), number("1e-5"), number("3 4"), number("5 m")
    (Fraction(-2001, 2), Fraction(3, 2), Fraction(1, 100000), None, None)
    """
    text = text.strip().replace("\N{MINUS SIGN}", "-")
    match = _NUMBER.fullmatch(text) if len(text) <= LONGEST_NUMBER else None
    if not match:
        return None
    sign = -1 if match["sign"] == "-" else 1
    if match["whole"]:
        return sign * (int(match["whole"]) + Fraction(match["part"]))
    value = Fraction(match["decimal"].replace(",", "").replace(" ", ""))
    return sign * value * Fraction(10) ** int(match["exponent"] or 0) / int(match["denominator"] or 1)
