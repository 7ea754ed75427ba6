"""Policies, reward models and references: how they are loaded, run and frozen."""
