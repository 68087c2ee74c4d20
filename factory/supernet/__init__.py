"""The elastic network and its training; the only folder that imports torch."""
