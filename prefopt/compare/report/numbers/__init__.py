"""Computes all numbers of a report from the per-example tables of its cells."""

from .assemble import findings_of

__all__ = ["findings_of"]
