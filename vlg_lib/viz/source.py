"""The library's own code, shown in a chapter: what is read is what runs."""

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Source:
    """Python code that a notebook shows in colour and that prints as text."""

    code: str

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.code}```\n"

    def __repr__(self) -> str:
        return self.code


def show_source(*objects: Callable[..., Any]) -> Source:
    """The source of functions, methods or classes of the library, as written,
    one below the other.

    TypeError for what has no Python source (a value, a function written in C),
    OSError where the file is not there.

    >>> print(show_source(textwrap.dedent).code.splitlines()[0])
    def dedent(text):
    """
    return Source(
        "\n\n".join(
            textwrap.dedent(inspect.getsource(each)) for each in objects
        )
    )
