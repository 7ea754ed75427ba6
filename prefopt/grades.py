"""Llama 2's four grades of a preference: how much better the chosen answer is. Names only."""

GRADES = ("significantly", "better", "slightly", "negligibly")
"""Strongest first; arXiv:2307.09288, section 3.2.1 and table 27."""
