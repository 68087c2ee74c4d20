"""Taking trained networks apart: what matters for some classes, cut out without training."""
