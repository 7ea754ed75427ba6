"""Responses made by a policy. Knows prompts and samples, not the losses that learn from them."""

from .sample import Sample, sample

__all__ = ["Sample", "sample"]
