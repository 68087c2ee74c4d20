"""What a command left behind: its error as JSON, an empty folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import Result


def error_of(finished: Result) -> dict[str, Any]:
    return json.loads(finished.stdout)["error"]


def is_empty(folder: Path) -> bool:
    return list(folder.iterdir()) == []
