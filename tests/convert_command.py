"""The command line of the converters, as a test types it."""

from click.testing import Result
from typer.testing import CliRunner

from vlg_lib import cli


def vlg_convert(*words: object) -> Result:
    """``vlg convert WORDS``: exit status and what it prints."""
    return CliRunner().invoke(cli.app, ["convert", *map(str, words)])
