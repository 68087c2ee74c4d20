"""Which modules: their values for a task, the exact choice, the estimate of accuracy."""
