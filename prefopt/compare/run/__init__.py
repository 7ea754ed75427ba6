"""How a comparison is carried out: tasks that are named by what they depend on, in processes, with their costs."""
