"""Shapes and dtypes of the library's arrays are checked in every test."""

from jaxtyping import install_import_hook

install_import_hook("vlg_lib", "typechecker.typechecker")
