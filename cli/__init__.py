"""The command line: parse, call the api, print; nothing else."""

from __future__ import annotations

import os
import sys

import click

from .artifacts import bench, inspect, run, verify
from .builds import build, plan
from .combination import combine
from .devices import devices
from .disassembly import disassemble
from .modules import modules
from .output import EXIT_CODES, Group, versions_text
from .reassembly import reassemble

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Group, context_settings=CONTEXT, epilog=EXIT_CODES, invoke_without_command=True)
@click.option("--version", is_flag=True, help="Print versions and exit.")
@click.option("--no-color", is_flag=True, help="No colors; NO_COLOR does the same.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@click.pass_context
def cli(context: click.Context, version: bool, no_color: bool, quiet: bool) -> None:
    """Small neural networks for a task, a device and a budget, in about a second.

    \b
    nnfactory build --device jetson --task det
    nnfactory plan --device host --task cls --classes goldfish,jellyfish,bullfrog
    """
    if no_color or os.environ.get("NO_COLOR"):
        context.color = False
    context.obj = {"color": not no_color, "quiet": quiet}
    if version:
        click.echo(versions_text())
        context.exit()
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for command in (
    build,
    plan,
    bench,
    verify,
    inspect,
    run,
    reassemble,
    disassemble,
    combine,
    devices,
    modules,
):
    cli.add_command(command)


def main() -> None:
    """Entry point of the console script."""
    cli.main(args=sys.argv[1:], prog_name="nnfactory")
