"""What is measured of a policy: responses, pairs, judges, multiple choice."""
