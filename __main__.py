"""``python -m nnfactory`` is the command ``nnfactory``."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
