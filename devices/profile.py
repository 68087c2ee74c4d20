"""Device profiles: what is known about a machine, read from TOML."""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path

from ..factory.errors import DataError, SpecError, UnknownNameError
from ..factory.schema import DeviceProfile
from ..factory.serialize import noun_from_table
from ..factory.toml_files import tomllib

PROFILES = Path(__file__).resolve().parent / "profiles"


def list_profiles() -> list[DeviceProfile]:
    """The shipped device profiles, by name.

    Raises:
        DataError: A profile is malformed.
    """
    return copy.deepcopy(list(_profiles_in(PROFILES)))


@lru_cache(maxsize=4)
def _profiles_in(folder: Path) -> tuple[DeviceProfile, ...]:
    """Read once: what is shipped does not change."""
    return tuple(read_profile(path) for path in sorted(folder.glob("*.toml")))


def load_profile(name_or_alias_or_path: str | Path) -> DeviceProfile:
    """Read a shipped profile by name or alias, or any profile by path.

    Args:
        name_or_alias_or_path: Such as "jetson-orin-nano", "jetson" or "boards/mine.toml". What
            ends in ".toml" is a path.

    Raises:
        UnknownNameError: There is no such profile.
        DataError: The file is missing or no valid profile.
    """
    if Path(name_or_alias_or_path).suffix == ".toml":
        return read_profile(Path(name_or_alias_or_path))
    wanted = str(name_or_alias_or_path)
    profiles = list_profiles()
    for profile in profiles:
        if wanted in (profile.name, *profile.aliases):
            return profile
    known = [name for profile in profiles for name in (profile.name, *profile.aliases)]
    raise UnknownNameError.with_suggestion(
        "device profile", wanted, known, listing="nnfactory devices list"
    )


def read_profile(path: Path) -> DeviceProfile:
    """The profile in a TOML file; its keys are the fields of ``DeviceProfile``.

    Raises:
        DataError: The file is missing or no valid profile.
    """
    try:
        return noun_from_table(DeviceProfile, tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, DataError, SpecError) as error:
        raise DataError(f"{path} is no valid device profile: {error}") from error
