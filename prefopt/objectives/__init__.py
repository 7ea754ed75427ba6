"""The methods, one file each; they know tensors only, so importing them needs torch alone."""

from .base import Loss, Metric, Objective, Term, load

__all__ = ["Loss", "Metric", "Objective", "Term", "load"]
