"""One file a runtime: open a network, run it, close it."""
