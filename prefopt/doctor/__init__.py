"""Tells a sick run from a healthy one: one list of checks over what a run has logged and what is known at its start.

    run        what is known of a run: logged series, figures, rollouts, iterations
    of_*       the checks, each a condition with its numbers
    checks     the list of all of them, and what they find
    words      what is said of each, in English and Chinese

Reads no model and no data: `training/health.py`, which watches a trainer, and `training/run_files.py`, which reads a
folder, hand in numbers.
"""
