"""Tools that know nothing of preferences: processes, files, fingerprints, counters, small tensor operations."""
