"""What is compared: the plan, its methods, and where its rows come from."""
