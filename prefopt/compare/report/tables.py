"""The tables of the report, as texts with what they are sorted by; knows no way of showing them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from prefopt.compare import Verdict

from .findings import Choices, Findings, Judge, Method, Value, WinRate
from .metrics import METRICS, Metric
from .number_format import MISSING, duration, interval, number, p_value, power, size, whole
from .summary import facing, ranking
from .words import Words

HEADLINE = ("gain", "win_rate", "kl", "length", "accuracy")
LOOKS = {Verdict.BEATS: "better", Verdict.LOSES: "worse", Verdict.DIFFER: "differ"}


@dataclass(frozen=True)
class Span:
    """A stretch of a bar, from 0 to 100."""

    start: float
    width: float
    look: str


@dataclass(frozen=True)
class Bar:
    """A small picture in a cell: stretches, a point and an upright line, all from 0 to 100."""

    spans: Sequence[Span]
    point: float | None = None
    line: float | None = None


@dataclass(frozen=True)
class Cell:
    """
    Args:
        note, detail: a second and third line, smaller.
        order: what a column is sorted by; None goes last.
        tip: more about it, for who asks.
        bounds: of the interval in `note`.
        is_number: `order` is all that the text says.
    """

    text: str
    note: str = ""
    detail: str = ""
    order: float | str | None = None
    look: str = ""
    bar: Bar | None = None
    tip: str = ""
    bounds: tuple[float, float] | None = None
    is_number: bool = True


@dataclass(frozen=True)
class Column:
    """`about` says what it means in a sentence."""

    key: str
    label: str
    about: str = ""


@dataclass(frozen=True)
class Table:
    """The first cell of a row is its name; `about` is a sentence or more that says what the table shows."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = True
    about: str = ""


def headline(findings: Findings, words: Words) -> Table:
    """The one that is read first: the deciding metric with its interval as a bar, and what it was bought with."""
    methods = ranking(findings)
    shown = [METRICS[name] for name in HEADLINE if any(name in method.metrics for method in methods)]
    columns = [_column("method", words), _of_metric(METRICS[findings.primary], words)]
    columns += [*(_of_metric(metric, words) for metric in shown), _column("flops", words)]
    bars = _interval_bars(findings, methods)
    rows = []
    for method, bar in zip(methods, bars, strict=True):
        first = _measured(method.metrics.get(findings.primary), METRICS[findings.primary], bar)
        rest = (_measured(method.metrics.get(metric.name), metric) for metric in shown)
        rows.append([_name(method, findings, words), first, *rest, _flops(method.cost.total)])
    return Table(words("section.headline"), columns, rows)


def metrics(findings: Findings, words: Words) -> Table:
    """Every metric that any method has."""
    methods = ranking(findings)
    shown = [metric for metric in METRICS.values() if any(metric.name in method.metrics for method in methods)]
    rows = [
        [_name(method, findings, words), *(_measured(method.metrics.get(metric.name), metric) for metric in shown)]
        for method in methods
    ]
    columns = [_column("method", words), *(_of_metric(metric, words) for metric in shown)]
    return Table(words("section.metrics"), columns, rows)


def matrix(findings: Findings, words: Words) -> Table:
    """Each method against each: what the one of the row does to the one of the column."""
    names = [method.name for method in ranking(findings)]
    columns = [Column("against", words("column.against")), *(Column(name, name) for name in names)]
    rows = [[Cell(row), *(_against(findings, row, column, words) for column in names)] for row in names]
    return Table(words("section.matrix"), columns, rows, sortable=False)


def _against(findings: Findings, row: str, column: str, words: Words) -> Cell:
    pair = facing(findings, row, column)
    if pair is None:
        return Cell(MISSING if row != column else "", look="self")
    form = "+" + METRICS[findings.primary].format
    difference, p = whole(pair.difference, form), f"{words('term.p')} {p_value(pair.p)}"
    more = [f"{row} – {column}: {words.verdict(pair.verdict)}", difference, p]
    if pair.effect is not None:
        more.append(f"{words('term.effect')} {number(pair.effect, '+.2f')}")
    if pair.detectable is not None:
        more.append(f"{words('term.detectable')} {number(pair.detectable, form[1:])}")
    look = LOOKS.get(Verdict(pair.verdict), "open")
    return Cell(
        words.verdict(pair.verdict, "matrix"), difference, p, look=look, tip=f"{row} – {column}: {'; '.join(more)}"
    )


def judge(rates: Judge, words: Words) -> Table:
    """One judge's; columns about orders only where it was asked in both, about failures only where there are some."""
    orders = any(rate.flip_rate is not None for rate in rates.rates)
    failed = any(rate.failures for rate in rates.rates)
    keys = ["method", "outcomes", "rate", "length_controlled", "p"]
    keys += ["failures"] * failed + ["flips", "first_preferred"] * orders
    rows = []
    for rate in rates.rates:
        cells = _judged(rate)
        rows.append([cells[key] for key in keys])
    caption = f"{rates.name} ({words(f'judge.{rates.kind}')})"
    return Table(caption, [_column(key, words) for key in keys], rows)


def _judged(rate: WinRate) -> dict[str, Cell]:
    share = Metric("rate", ".1%")
    return {
        "method": Cell(rate.method, order=rate.method),
        "outcomes": _outcomes(rate),
        "rate": _measured(rate.rate, share),
        "length_controlled": _measured(rate.length_controlled, share),
        "p": Cell(p_value(rate.p), order=rate.p),
        "failures": Cell(str(rate.failures), order=rate.failures),
        "flips": Cell(number(rate.flip_rate, ".0%"), order=rate.flip_rate),
        "first_preferred": Cell(number(rate.first_preferred, ".0%"), order=rate.first_preferred),
    }


def _outcomes(rate: WinRate) -> Cell:
    count = rate.wins + rate.ties + rate.losses
    text = f"{rate.wins} · {rate.ties} · {rate.losses}"
    if not count:
        return Cell(text)
    won, tied = 100 * rate.wins / count, 100 * rate.ties / count
    spans = (Span(0, won, "won"), Span(won, tied, "tied"), Span(won + tied, 100 - won - tied, "lost"))
    return Cell(text, order=rate.wins + rate.ties / 2, bar=Bar(spans, line=50), is_number=False)


def choices(findings: Findings, words: Words) -> Table:
    """A column for each file, with p against the baseline; methods that answered none are left to the other tables."""
    answered = [each for each in ranking(findings) if any(each.name in file.by for file in findings.choices)]
    rows = [
        [_name(method, findings, words), *(_chosen(file, method.name, words) for file in findings.choices)]
        for method in answered
    ]
    about = words("metric.choices.about")
    columns = [
        Column(file.name, words("choices.file", name=file.name, questions=file.questions), about)
        for file in findings.choices
    ]
    return Table(words("section.choices"), [_column("method", words), *columns], rows)


def _chosen(file: Choices, name: str, words: Words) -> Cell:
    cell = _measured(file.by.get(name), METRICS["choices"])
    return replace(cell, detail=f"{words('term.p')} {p_value(file.p[name])}") if name in file.p else cell


def cost(findings: Findings, words: Words) -> Table:
    """FLOPs by purpose, then with what is shared, then all that is no FLOP."""
    costs = [method.cost for method in findings.methods]
    purposes, shared = _keys(each.flops for each in costs), _keys(each.shared for each in costs)
    keys = ("method", *(f"purpose.{name}" for name in purposes), "own", *(f"shared.{name}" for name in shared), "total")
    keys += ("tokens", "seconds", "cpu_seconds", "memory", "steps", "trials")
    rows = []
    for method in ranking(findings):
        spent = method.cost
        cells = [*(_flops(spent.flops.get(name)) for name in purposes), _flops(spent.own)]
        cells += [*(_flops(spent.shared.get(name)) for name in shared), _flops(spent.total), *_other_costs(method)]
        rows.append([_name(method, findings, words), *cells])
    return Table(words("section.cost"), [_column(key, words) for key in keys], rows)


def _other_costs(method: Method) -> list[Cell]:
    spent, tokens = method.cost, sum(method.cost.tokens.values())
    each = "; ".join(f"{name} {count:,}" for name, count in spent.tokens.items())
    return [
        Cell(f"{tokens:,}", order=tokens, tip=each),
        Cell(duration(spent.seconds), order=spent.seconds),
        Cell(duration(spent.cpu_seconds), order=spent.cpu_seconds),
        Cell(size(spent.peak_memory), order=spent.peak_memory),
        Cell(f"{spent.steps:,}", order=spent.steps),
        Cell(f"{method.trials:,}", order=method.trials),
    ]


def settings(findings: Findings, words: Words) -> Table:
    """What each method was, in the plan's order."""
    rows = []
    for method in findings.methods:
        given = ", ".join(f"{name} = {value}" for name, value in method.settings.items())
        seeds = ", ".join(map(str, method.seeds))
        cells = [Cell(text or MISSING, order=text) for text in (method.method, given)]
        rows.append(
            [_name(method, findings, words), *cells, Cell(seeds or MISSING, order=len(method.seeds), is_number=False)]
        )
    keys = ("method", "kind", "settings", "seeds")
    return Table(words("section.settings"), [_column(key, words) for key in keys], rows)


def all_tables(findings: Findings, words: Words) -> dict[str, Table]:
    """Name -> table, those of the page that hold numbers."""
    made = {"headline": headline(findings, words), "metrics": metrics(findings, words)}
    if findings.pairings:
        made["pairs-of-methods"] = matrix(findings, words)
    made |= {f"judge-{each.name}": judge(each, words) for each in findings.judges}
    if findings.choices:
        made["choices"] = choices(findings, words)
    return {**made, "cost": cost(findings, words), "settings": settings(findings, words)}


def _keys(mappings: Iterable[Iterable[str]]) -> list[str]:
    """Of all of them, each once, in the order of their first."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _column(key: str, words: Words) -> Column:
    name = key if "." in key else f"column.{key}"
    return Column(key, words(name), words(f"{name}.about"))


def _of_metric(metric: Metric, words: Words) -> Column:
    return Column(metric.name, words(f"metric.{metric.name}"), words(f"metric.{metric.name}.about"))


def _name(method: Method, findings: Findings, words: Words) -> Cell:
    note = words("baseline") if method.name == findings.baseline else ""
    return Cell(method.name, note, order=method.name)


def _measured(value: Value | None, metric: Metric, bar: Bar | None = None) -> Cell:
    if value is None:
        return Cell(MISSING)
    bounds = None if value.low is None or value.high is None else (value.low, value.high)
    text, note = number(value.mean, metric.format), interval(value, metric.format)
    return Cell(text, note, order=value.mean, bar=bar, bounds=bounds)


def _flops(count: float | None) -> Cell:
    """A dash for a purpose that the method does not have: 0 is a count."""
    return Cell(MISSING) if count is None else Cell(power(count), order=count)


def _interval_bars(findings: Findings, methods: Sequence[Method]) -> list[Bar | None]:
    """On one scale for all, the baseline's mean as a line; none without intervals."""
    values = {method.name: method.metrics.get(findings.primary) for method in methods}
    known = [each for v in values.values() if v for each in (v.low, v.mean, v.high) if each is not None]
    lowest, highest = min(known, default=0.0), max(known, default=0.0)
    if highest <= lowest:
        return [None] * len(methods)

    def at(value: float) -> float:
        return round(3 + 94 * (value - lowest) / (highest - lowest), 2)

    def bar(value: Value | None) -> Bar | None:
        if value is None or value.low is None or value.high is None:
            return None
        spans = (Span(at(value.low), round(at(value.high) - at(value.low), 2), "interval"),)
        return Bar(spans, at(value.mean), None if baseline is None else at(baseline.mean))

    baseline = values.get(findings.baseline)
    return [bar(values[method.name]) for method in methods]
