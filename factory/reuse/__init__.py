"""Other people's checkpoints: what resembles what, and where networks are taken apart."""
