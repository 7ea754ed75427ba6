"""The metrics that a method can have: in which order they are shown, how, and which way is better."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """
    Args:
        format: of a number, as Python's.
        better: 1 higher, -1 lower, 0 neither.
        decides: methods may be compared by it.
    """

    name: str
    format: str
    better: int = 0
    decides: bool = False


METRICS = {
    metric.name: metric
    for metric in (
        Metric("gold", ".2f", 1, True),  # the known true reward, of a task that has one
        Metric("score", ".2f", 1, True),  # by the reward model
        Metric("gain", "+.2f", 1),  # over the baseline, by the primary metric
        Metric("win_rate", ".1%", 1),  # against the baseline, by the first judge
        Metric("kl", ".2f"),  # to the reference, nats a response: mean log-ratio (k1), or best-of-n's bound
        Metric("kl_k3", ".2f"),  # the same by Schulman's k3
        Metric("length", ".1f"),  # tokens of a response
        Metric("unfinished", ".1%", -1),  # truncated at the length limit
        Metric("degenerate", ".1%", -1),  # blank or repeating itself
        Metric("distinct_2", ".3f"),  # of the responses to different prompts
        Metric("perplexity", ".1f"),  # of its responses under the reference, per token
        Metric("accuracy", ".1%", 1),  # held-out pairs ranked right by the implicit reward
        Metric("margin", ".3f"),  # implicit reward (log-ratio) of chosen less rejected
        Metric("logps_chosen", ".1f"),  # log-likelihood of the chosen response
        Metric("choices", ".1%", 1),  # multiple-choice accuracy, over all files
    )
}
