"""Methods whose rows the policy makes: sample, score, select, train, evaluate, and again."""
