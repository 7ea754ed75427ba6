"""What may be claimed: tests, intervals, power and corrections, on numbers alone."""
