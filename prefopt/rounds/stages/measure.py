"""How good a version is."""

from __future__ import annotations

import numpy as np

from ...candidates.candidate import prompt_key
from ...candidates.evaluate import standard_error
from ...compare import records
from ...compare.measure import STREAM, measure_choices, read_questions
from ..context import StageContext
from .files import Result


def evaluate(context: StageContext) -> Result:
    """Responses to held-out prompts, with their divergence from v0 and from the version before."""
    sizes = context.inputs["evaluation"]
    source = context.policy_at("policy")
    policy = context.policy(source)
    evaluator = context.evaluator(sizes, STREAM, None, source)
    held = context.held_out
    found = evaluator.evaluate(policy, held.prompts, k=sizes["responses_per_prompt"], seed=context.plan_seed)
    records.write(context.folder / "responses.parquet", found)
    if context.inputs["choices"]:
        questions = read_questions(*(path for path, *_ in context.inputs["choices"]))
        choices = measure_choices(policy, context.tokenizer, questions, shots=sizes["shots"])
        records.write(context.folder / "choices.parquet", choices)
    return {"kl_previous": context.divergence_from_previous(evaluator, policy, found)}


def rescore(context: StageContext) -> Result:
    """The scores of a version's held-out responses under a reward model, one for each."""
    folder = context.folder_of("evaluated")
    assert folder is not None
    found = records.read(folder / "responses.parquet")
    assert found is not None
    by_key = {prompt_key(prompt): prompt for prompt in context.held_out.prompts}
    asked = [by_key[key] for key in found["prompt_key"]]
    scores = context.scorer().score(asked, list(found["response"]), [bool(x) for x in found["finished"]])
    found["score"] = np.array(scores, dtype=np.float64)
    records.write(context.folder / "responses.parquet", found)
    means = found.groupby("prompt_key")["score"].mean().to_numpy()
    return {"score": float(means.mean()), "error": standard_error(means) if len(means) > 1 else None}
