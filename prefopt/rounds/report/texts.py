"""Every text of the report over rounds that is neither the user's nor a model's, by key and language."""

from __future__ import annotations

from .texts_zh import ZH

EN = {
    "versions": "Versions",
    "versions.about": (
        "{prompts} held-out prompts, {interval}% intervals over prompts; one seed: this is about these checkpoints. "
        "The best by {primary} is v{best}."
    ),
    "version": "version",
    "trained": "trained by",
    "gold": "gold reward",
    "score": "score by v{number}'s reward model",
    "kl_first": "KL to v0",
    "kl_previous": "KL to previous",
    "length": "length",
    "unfinished": "truncated",
    "wins v0": "wins v0",
    "wins previous": "wins previous",
    "wins best": "wins best",
    "choices": "multiple choice: {file}",
    "scores": "Every version by every reward model",
    "scores.about": (
        "A column is one reward model. Where the score by the model that was trained against goes on rising and "
        "that by a later one, or the gold reward, does not, the policy fits the reward model's errors."
    ),
    "reward_models": "Reward models",
    "reward_models.about": (
        "Accuracy on held-out pairs, of the plan's test rows and of each round's labels: a fall on newer rounds' "
        "labels is the drift that new labels are for."
    ),
    "round": "round",
    "labels": "labels",
    "test pairs": "test pairs",
    "labels of": "labels of v{number}",
    "sampling": "What each round sampled",
    "sampling.about": "The expected best and median score of N responses to a prompt, by the round's reward model.",
    "temperature": "temperature",
    "best of": "best of {n}",
    "median of": "median of {n}",
    "trainings": "Trainings",
    "trainings.about": (
        "Where each begins, on how many rows, and its first loss; ln 2 = 0.6931 where DPO's reference is the policy "
        "that it starts from. Sampled ids: how many responses were trained on by ids that are not those of their text, "
        "and how many by their text, as their ids are of another tokenizer, stop token or text."
    ),
    "method": "method",
    "rows": "rows",
    "sampled ids": "sampled ids",
    "from": "from",
    "reference": "reference",
    "first loss": "first loss",
    "forgotten": "Forgotten",
    "forgotten.about": "Prompts that an earlier version answered better than v{newest}, the largest losses first.",
    "prompt": "prompt",
    "then": "v{number}: {reward}",
    "pending": "Not done yet",
    "none": "–",
    "primary.gold": "gold reward",
    "primary.score": "the newest reward model's score",
}
TEXTS = {"en": EN, "zh": ZH}


def text(lang: str, key: str, **values: object) -> str:
    """
    Raises:
        ValueError: no such language.
    """
    if lang not in TEXTS:
        raise ValueError(f"a report in {lang!r}: there are texts in {', '.join(TEXTS)}")
    return TEXTS[lang][key].format(**values)
