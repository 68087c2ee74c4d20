"""What a machine can do, and how long things take on it."""
