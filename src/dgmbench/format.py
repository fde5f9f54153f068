"""Numbers as a person reads them: as many digits as their uncertainty supports, never more."""

import math
from collections.abc import Iterable

MINUS = "−"
MISSING = "–"


def decimals(uncertainties: Iterable[float | None]) -> int | None:
    """Decimals that show two significant digits of the largest uncertainty; None where there is none."""
    known = [u for u in uncertainties if u is not None and math.isfinite(u) and u > 0]
    if not known:
        return None
    return min(max(1 - math.floor(math.log10(max(known))), 0), 8)


def number(value: float | None, uncertainties: Iterable[float | None] = ()) -> str:
    """`−123.46` for -123.4567 with the uncertainty 0.12; five significant digits where there is none."""
    if value is None:
        return MISSING
    # What is below a number's rounding error says nothing about its digits.
    places = decimals(u for u in uncertainties if u is not None and u > 1e-9 * abs(value))
    if places is None:
        places = 0 if value == 0 else min(max(4 - math.floor(math.log10(abs(value))), 0), 8)
        text = f"{value:.{places}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        text = f"{value:.{places}f}"
    return text.replace("-", MINUS)


def spread(uncertainty: float | None) -> str:
    """An uncertainty with two significant digits."""
    if uncertainty is None:
        return MISSING
    places = decimals([uncertainty])
    return "0" if places is None or uncertainty < 1e-8 else f"{uncertainty:.{places}f}"


def duration(seconds: float | None) -> str:
    """`48 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds is None:
        return MISSING
    if math.isinf(seconds):
        return "unknown time"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def names(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
