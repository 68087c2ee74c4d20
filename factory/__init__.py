"""What to build: from a task, a budget and a latency table to one network."""
