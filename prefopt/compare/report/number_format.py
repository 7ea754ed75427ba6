"""Numbers as a reader sees them; knows neither what they measure nor the language."""

from __future__ import annotations

from .findings import Value

MISSING = "–"
_RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_SI = ("B", "kB", "MB", "GB", "TB")


def number(value: float | None, form: str) -> str:
    """By a format of Python's, with a minus sign as wide as a plus; a dash where there is no number.

    "power" is 3.1×10¹⁴, for what spans many orders of magnitude.
    """
    if value is None:
        return MISSING
    if form == "power":
        return power(value)
    # "z": what rounds to nothing has no sign.
    return format(value, form.replace(".", "z.", 1)).replace("-", "\u2212")


def power(value: float) -> str:
    """With two digits and a power of ten; plain below a thousand."""
    if abs(value) < 1000:
        return number(value, ".0f")
    digits, exponent = format(value, ".1e").split("e")
    return f"{digits}×10{str(int(exponent)).translate(_RAISED)}"


def interval(value: Value | None, form: str) -> str:
    """[low, high], which no line breaks, without plus signs; nothing where there is no interval."""
    if value is None or value.low is None or value.high is None:
        return ""
    low, high = (number(bound, form.lstrip("+")) for bound in (value.low, value.high))
    return f"[{low},\u00a0{high}]"


def whole(value: Value | None, form: str) -> str:
    """Mean and interval."""
    return MISSING if value is None else f"{number(value.mean, form)}\u00a0{interval(value, form)}".rstrip()


def p_value(p: float | None) -> str:
    """Never 0: a p-value that small is said to be below the last digit shown."""
    if p is None:
        return MISSING
    return "< .001" if p < 0.001 else "1" if p > 0.9995 else format(p, ".3f").lstrip("0")


def size(count: float | None) -> str:
    """Bytes in units of a thousand."""
    if count is None:
        return MISSING
    order = 0
    while count >= 1000 and order < len(_SI) - 1:
        count, order = count / 1000, order + 1
    return f"{count:.1f} {_SI[order]}" if order else f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, without the parts that are nothing at its size."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {left:02d} s"
