"""Numbers as text for readers: bounds never look smaller than they are, nor scores better."""

from __future__ import annotations

import math

from dpslice.accounting._guarantee import rounded_up


def _superscript(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def plain(text: str) -> str:
    """Write the computer's 1.5e-05 as 1.5 × 10⁻⁵."""
    mantissa, e, exponent = text.partition("e")
    if not e:
        return text
    power = f"10{_superscript(int(exponent))}"
    return power if mantissa == "1" else f"{mantissa} × {power}"


def parameter_text(value: float, digits: int = 6) -> str:
    """Write a privacy parameter with some significant digits, never smaller than it is."""
    if math.isinf(value):
        return "∞"
    text = rounded_up(value, digits)
    rounded = float(text)
    if 1e6 > rounded >= 1000:
        return f"{rounded:,.{digits}g}" if rounded % 1 else f"{rounded:,.0f}"
    return plain(text)


def number_text(value: float, digits: int = 6) -> str:
    """Write a measured number with some significant digits."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return plain(f"{value:,.{digits}g}")


def score_text(value: float | None, digits: int = 3) -> str:
    """Write a score so that only a perfect one reads 1, and only a worthless one 0."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    if value != 1 and float(text) == 1:
        return f">{1 - 10**-digits:.{digits}f}" if value < 1 else f"<{1 + 10**-digits:.{digits}f}"
    if value != 0 and float(text) == 0:
        return f"<{10**-digits:.{digits}f}" if value > 0 else f">−{10**-digits:.{digits}f}"
    return text.replace("-", "−")


def cell_text(value: float) -> str:
    """Write a score in as few signs as a cell of a map has room for: .95, −.03, >.99."""
    text = f"{abs(value):.2f}"
    if text == "0.00":
        return "0"
    sign = "−" if value < 0 else ""
    if text == "1.00":
        return f"{sign}1" if abs(value) == 1 else f"{'<' if value < 0 else '>'}{sign}.99"
    return sign + (text[1:] if text.startswith("0") else text)


def share_text(value: float) -> str:
    """Write a share in percent, so that only none reads 0 % and only all reads 100 %."""
    if value in (0.0, 1.0):
        return f"{value:.0%}".replace("%", " %")
    percent = f"{100 * value:.1f}"
    if percent == "0.0":
        return "<0.1 %"
    if percent == "100.0":
        return ">99.9 %"
    return f"{percent} %"


def count_text(value: int) -> str:
    return f"{value:,}"


def at_most_text(share: float) -> str:
    """Write an upper bound of a probability in percent, rounded up."""
    if share >= 1:
        return "100 %"
    tenths = math.ceil(1000 * share - 1e-9)  # the bound is a computed number: 50 % stays 50.0 %
    return f"{tenths / 10:.1f} %" if tenths < 1000 else ">99.9 %"
