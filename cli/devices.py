"""``devices list`` and ``devices show``."""

from __future__ import annotations

import click

from . import options
from .output import Group, console, print_json


@click.group(cls=Group)
def devices() -> None:
    """Devices that networks can be built for."""


@devices.command("list")
@options.json_option
def list_devices(as_json: bool) -> None:
    """List every device profile.

    \b
    nnfactory devices list
    nnfactory devices list --json
    """
    from rich.table import Table

    from .. import api

    profiles = api.devices()
    if as_json:
        print_json(profiles)
        return
    table = Table(box=None, pad_edge=False)
    for title in ("name", "aliases", "runtime", "precisions", "latency", "energy", "title"):
        table.add_column(title)
    for profile in profiles:
        table.add_row(
            profile.name, ", ".join(profile.aliases), profile.runtime,
            ", ".join(profile.precisions),
            "measured here" if profile.name == "host" else "estimated",
            str(profile.facts.get("energy", "-")), profile.title,
        )  # fmt: skip
    console().print(table)


@devices.command("show")
@click.argument("name")
@options.json_option
def show_device(name: str, as_json: bool) -> None:
    """Show what is known about a device, and where it comes from.

    \b
    nnfactory devices show jetson
    nnfactory devices show host --json
    """
    from .. import api

    profile = api.device(name)
    if as_json:
        print_json(profile)
        return
    out = console()
    out.print(f"[bold]{profile.name}[/]  {profile.title}")
    rows = {
        "aliases": ", ".join(profile.aliases), "runtime": profile.runtime,
        "precisions": ", ".join(profile.precisions), "power mode": profile.power_mode,
        "memory_mib": profile.memory_mib,
        "channel multiple": profile.channel_multiple, "highest opset": profile.max_opset,
        **profile.facts,
    }  # fmt: skip
    for key, value in rows.items():
        if value not in ("", None):
            out.print(f"  {key}: {value}", markup=False)
    for line in profile.provenance:
        out.print(f"  - {line}", markup=False)
