"""What every form of the report says in the same words: who leads, whom it beats, and what may be claimed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..statistics import Claim, Verdict
from .findings import Findings, Method, Pairing, Value
from .metrics import METRICS
from .number_format import number, whole
from .words import Words


def ranking(findings: Findings) -> list[Method]:
    """The best by the primary metric first, in the plan's order where that does not tell; last those without it."""

    def place(method: Method) -> float:
        value = method.metrics.get(findings.primary)
        return float("inf") if value is None else -METRICS[findings.primary].better * value.mean

    return sorted(findings.methods, key=place)


def facing(findings: Findings, first: str, second: str) -> Pairing | None:
    """The pairing of the two as seen by the first; None where they were not compared."""
    pair = findings.pairing(first, second)
    if pair is None or pair.first == first:
        return pair
    verdict, effect = Verdict(pair.verdict).reversed, None if pair.effect is None else -pair.effect
    mirrored = replace(pair, first=first, second=second, verdict=verdict, effect=effect)
    return replace(mirrored, difference=negative(pair.difference))


def negative(value: Value) -> Value:
    """As the difference the other way round."""
    low, high = (None if bound is None else -bound for bound in (value.high, value.low))
    return Value(-value.mean, low, high)


def claim_of(findings: Findings) -> Claim:
    return Claim[findings.claim]


def verdict_lines(findings: Findings, words: Words) -> list[str]:
    """Who leads by how much; then whom it beats and whom it may not; then what that is a claim about."""
    return [_leads(findings, words), *_against_others(findings, words), *claim_lines(findings, words)]


def _leads(findings: Findings, words: Words) -> str:
    metric, form = words(f"metric.{findings.primary}"), METRICS[findings.primary].format
    measured = [method for method in ranking(findings) if findings.primary in method.metrics]
    if not measured:
        return words("sentence.nothing", metric=metric)
    leader = measured[0]
    said = {"leader": leader.name, "metric": metric, "value": whole(leader.metrics[findings.primary], form)}
    if len(measured) == 1:
        return words("sentence.alone", **said)
    if leader.name == findings.baseline:
        return words("sentence.baseline_leads", baseline=findings.baseline, **said)
    pair = facing(findings, leader.name, findings.baseline)
    if pair is None:
        return words("sentence.leads_alone", **said)
    key = "sentence.checkpoints_lead" if claim_of(findings) is Claim.CHECKPOINTS else "sentence.leads"
    return words(key, gain=whole(pair.difference, f"+{form}"), baseline=findings.baseline, **said)


def _against_others(findings: Findings, words: Words) -> list[str]:
    """A sentence for each verdict that the leader has, the clear ones first."""
    leader, *others = [method.name for method in ranking(findings)] or [""]
    pairs = [pair for other in others if (pair := facing(findings, leader, other)) is not None]
    lines = []
    for verdict in Verdict:
        names = [pair.second for pair in pairs if pair.verdict == verdict]
        if names:
            lines.append(words(f"sentence.{verdict}", leader=leader, others=words.listed(names)))
    return lines + _open_question(findings, pairs, words)


def _open_question(findings: Findings, pairs: Sequence[Pairing], words: Words) -> list[str]:
    """How far apart two methods would have to be, where something was left open."""
    unclear = {Verdict.UNDECIDED, Verdict.ALIKE}
    apart = [pair.detectable for pair in pairs if pair.verdict in unclear and pair.detectable is not None]
    form = METRICS[findings.primary].format
    return [words("sentence.detectable", detectable=number(max(apart), form))] if apart else []


def claim_lines(findings: Findings, words: Words) -> list[str]:
    counts = {"seeds": len(findings.seeds), "prompts": findings.prompts, "pairs": findings.pairs}
    return [words(f"claim.{findings.claim}"), words("claim.design", level=findings.level, **counts)]


def warning_lines(findings: Findings, words: Words, *, serious: bool | None = None) -> list[str]:
    """All of them, the serious ones first; or those that are serious, or are not."""
    chosen = [each for each in findings.warnings if serious is None or each.serious == serious]
    return [words(each.key, **each.values) for each in sorted(chosen, key=lambda each: not each.serious)]
