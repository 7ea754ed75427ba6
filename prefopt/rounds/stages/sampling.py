"""What a round samples, scores and selects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ...candidates.candidate import Scored
from ...candidates.generate import Origin, generate_into
from ...candidates.pool import Pool
from ...candidates.report import describe
from ...candidates.selection import by_prompt, rows_for, write_rows
from ...candidates.temperature_search import search_temperatures
from ...data.records import DataError
from ...generation.samplers import version_of
from ...objectives.sampling_arguments import SamplingArguments
from ...utils.extensions import load_named
from ..context import StageContext
from .files import POOL, SELECTED, Result
from .round_prompts import prompts_for


def search(context: StageContext) -> Result:
    """The temperature whose best of K scores highest, with the temperatures that may be as good."""
    source = context.policy_at("policy")
    policy = context.policy(source)
    with context.serving(source, policy) as served:
        found = search_temperatures(
            served,
            context.tokenizer,
            context.rows.validation[: context.inputs["prompts"]],
            context.scorer(),
            SamplingArguments(**context.inputs["sampling"]),
            temperatures=context.inputs["temperatures"],
            folder=context.folder / "search",
            version=version_of(policy, context.tokenizer, context.sampler),
            seed=context.stream,
            max_truncated=context.inputs["max_truncated"],
            include_truncated=context.inputs.get("include_truncated", False),
        )
    return {"best": found.best, "plausible": list(found.plausible)}


def generate(context: StageContext) -> Result:
    """K responses to each prompt of the round."""
    source = context.policy_at("policy")
    policy = context.policy(source)
    searched = context.task.needs["search"].result(context.out) if "search" in context.task.needs else None
    sampling = SamplingArguments(**context.inputs["sampling"])
    temperature = sampling.temperature if searched is None else searched["best"]
    version = version_of(policy, context.tokenizer, context.sampler)
    origin = Origin(version, context.plan_seed, context.round, 0, temperature)
    asked = prompts_for(context, "sample")
    with context.serving(source, policy) as served:
        generate_into(Pool(context.folder / POOL), served, context.tokenizer, asked, sampling, origin)
    return {"prompts": len(asked), "policy": version, "temperature": temperature}


def score(context: StageContext) -> Result:
    """The candidates of all rounds under the newest reward model."""
    pool = context.joined_pool()
    scorer = context.scorer()
    pool.score(scorer)
    newest = [row for row in pool.scored(scorer) if row.candidate.round == context.round]
    return {"scorer": scorer.fingerprint, **({"sampled": describe(newest)} if newest else {})}


def select(context: StageContext) -> Result:
    """The rows to train on, with where the best of them were sampled."""
    inputs = context.inputs
    scored, cut = context.scored(), inputs["include_truncated"]
    groups = by_prompt(scored, prior_top_n=inputs["prior_top_n"], include_truncated=cut)
    if inputs.get("stage"):
        rows = list(load_named(inputs["stage"], "select:")(context, groups))
    else:
        rows = rows_for(inputs["responses"], groups, inputs["score_threshold"])
    if not rows:
        raise DataError(_nothing(context, groups))
    write_rows(context.folder / SELECTED, rows)
    rounds = Counter(f"v{group[0].candidate.round}" for group in groups)
    return {"rows": len(rows), "prompts": len(groups), "best from": dict(sorted(rounds.items()))}


def _nothing(context: StageContext, groups: Sequence[Sequence[Scored]]) -> str:
    every = list(context.scored())
    cut = sum(not row.candidate.finished for row in every)
    blank = sum(not row.candidate.response.strip() for row in every)
    return (
        f"select: no row to train on from {len(every)} candidates: {cut} were cut off, {blank} say nothing; "
        f"{len(groups)} prompts have responses to select from; score_threshold={context.inputs['score_threshold']}"
    )
