"""What there is: models, networks, versions."""

import typer


def models() -> None:
    """List the 2D models and the 3D networks, each with what it needs.

    The names of 2D models are for --teacher, those of 3D networks for
    --checkpoint.
    """
    from vlg_lib.about import models as list_all

    typer.echo(list_all())


def info() -> None:
    """Print versions, the device, the cache folder, the models and the sizes of
    every profile.
    """
    from vlg_lib.about import info as tell_all

    typer.echo(tell_all())
