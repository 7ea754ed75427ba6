"""From per-example tables to all the numbers of a report. Knows no file, no word of a report and no picture."""

from .whole import findings_of

__all__ = ["findings_of"]
