"""What a person types in words, as the library takes it: profiles with another
2D model and other texts.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlg_lib.pipeline.profiles import Profile


def templates_of(prompts: str | None) -> tuple[str, ...] | None:
    """The templates of ``--prompts``; None where nothing was typed."""
    from vlg_lib.vision_language.prompts import split_templates

    return split_templates(prompts) if prompts else None


def worded_profile(
    name: str, teacher: str | None, prompts: str | None, synonyms: str = ""
) -> "Profile":
    """The profile of a name, with what was typed in place of its own."""
    from vlg_lib.pipeline.profiles import get_profile, with_words
    from vlg_lib.vision_language.prompts import split_synonyms

    return with_words(
        get_profile(name),
        teacher,
        templates_of(prompts),
        split_synonyms(synonyms) if synonyms else None,
    )
