"""How an app of commands is made, and how a function becomes a command of it.

Nothing here or in the modules beside it imports torch: what a command needs is
imported in the command, so that ``vlg --help`` answers at once.
"""

import inspect
import re
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

Command = Callable[..., None]


class OneLineErrors(TyperGroup):
    """A group of commands in which an error of the input is one line on
    standard error and exit code 2, not a traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was typed."""
        try:
            return super().invoke(ctx)
        except (ValueError, OSError) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from error


def new_app(name: str, text: str) -> typer.Typer:
    """An app with the settings of the house; ``text`` heads its help."""
    return typer.Typer(
        name=name,
        cls=OneLineErrors,
        help=text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


def add_command(
    app: typer.Typer,
    function: Command,
    name: str | None = None,
    summary: str | None = None,
    hidden: bool = False,
) -> None:
    """Add a command to an app. ``name``: instead of the function's, with - for
    _. ``summary``: what the list of commands says, instead of the first
    sentence. ``hidden``: whether that list leaves it out.

    The help is the function's docstring; literal blocks, as after
    ``Examples::``, keep their form.
    """
    text = inspect.getdoc(function) or ""
    # \\b tells Typer to leave the lines of a block as they are
    kept = re.sub(r"^(.*)::\n\n", "\b\n\\1:\n", text, flags=re.MULTILINE)
    app.command(name, help=kept, short_help=summary, hidden=hidden)(function)
