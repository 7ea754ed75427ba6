"""Tools that any room may use: processes, files, fingerprints, FLOP counters, small tensor operations, old names."""
