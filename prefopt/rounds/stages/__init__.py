"""The stages of a round, each in its room; `run_stage` knows them all."""
