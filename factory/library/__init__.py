"""Module libraries on disk: open, check, list, write."""
