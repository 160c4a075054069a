"""Array shapes and dtypes in the library's signatures are checked at run time
in every test."""

from jaxtyping import install_import_hook

install_import_hook("vlg_lib", "typechecker.typechecker")
