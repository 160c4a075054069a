"""Chapters show the code that runs, not a copy of it."""

import pytest

from vlg_lib.fusion import ViewAverager
from vlg_lib.pseudo_labels import compute_logits, mask_logits
from vlg_lib.viz import show_source


def test_functions_are_shown_as_written_one_below_the_other() -> None:
    shown = show_source(compute_logits, mask_logits)
    assert shown.code.startswith("def compute_logits(")
    assert "\n\n\ndef mask_logits(" in shown.code
    assert repr(shown) == shown.code


def test_a_method_loses_the_indentation_of_its_class() -> None:
    assert show_source(ViewAverager.add).code.startswith("def add(")


def test_the_notebook_gets_a_block_of_python() -> None:
    markdown = show_source(compute_logits)._repr_markdown_()
    assert markdown.startswith("```python\ndef compute_logits(")
    assert markdown.endswith("\n```\n")


def test_what_has_no_python_source_is_refused() -> None:
    with pytest.raises(TypeError):
        show_source(len)
