"""The run-time type checker of the tests: beartype, where an int may stand for
a float, as Python's typing says."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_CONFIGURATION = BeartypeConf(is_pep484_tower=True)


def typechecker(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arguments and results of a function of the library."""
    return beartype(function, conf=_CONFIGURATION)
