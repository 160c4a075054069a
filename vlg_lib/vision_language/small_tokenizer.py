"""How a text becomes token numbers, in the words a small model learnt.

open_clip's own vocabulary has 49,408 entries, 20 MB of embeddings; the rooms
need about a hundred words. So each small model has its own list, which its
weights file carries: number 0 is padding, the last one marks the end.
"""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

CONTEXT_LENGTH = 16


def tokenize(
    texts: Sequence[str], vocabulary: Sequence[str]
) -> Int[Tensor, "K context"]:
    """Token numbers (K, 16) int64 of K texts: lower-cased words, then the end
    mark, then padding.

    ``vocabulary``: all tokens; the first is padding and the last the end mark,
    since open_clip's text tower pools at the largest number. A plural whose
    singular is known counts as the singular. ValueError, naming the word and
    the vocabulary, for an unknown word; for a text without words; and for one
    of more than 15 words.

    >>> tokenize(["Chairs!"], ["<pad>", "a", "chair", "<end>"])[0, :3].tolist()
    [2, 3, 0]
    """
    numbers = {word: number for number, word in enumerate(vocabulary)}
    tokens = torch.zeros(len(texts), CONTEXT_LENGTH, dtype=torch.int64)
    for row, text in enumerate(texts):
        words = re.findall(r"[^\s.,;:!?\"'()\-]+", text.lower())
        if not 0 < len(words) < CONTEXT_LENGTH:
            raise ValueError(
                f"expected a text of 1 to {CONTEXT_LENGTH - 1} words, found"
                f" {len(words)} in {text!r}"
            )
        for column, word in enumerate(words):
            singular = (word, word.removesuffix("s"), word.removesuffix("es"))
            known = [numbers[form] for form in singular if form in numbers]
            if not known:
                listed = ", ".join(vocabulary[1:-1])
                raise ValueError(
                    f"the small model does not know the word {word!r} in"
                    f" {text!r}; it knows: {listed}"
                )
            tokens[row, column] = known[0]
        tokens[row, len(words)] = len(vocabulary) - 1
    return tokens
