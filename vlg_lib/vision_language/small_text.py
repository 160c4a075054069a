"""The text tower of the small models: open_clip's text transformer at their
size, with its names of weights.

Importing open_clip takes longer than labelling a room. What a trained tower
needs of it is a few layers of PyTorch, so they stand here; the training starts
from open_clip's own (``data_scripts/train_small_vlm.py``).
"""

from collections import OrderedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlg_lib.vision_language.small_tokenizer import CONTEXT_LENGTH

WIDTH = 96
"""Channels of a token."""
HEADS = 4
LAYERS = 2


class TextTower(nn.Module):
    """A causal transformer over the tokens of a text; the text's vector is read
    at its end mark.

    ``words``: how many tokens there are. ``dim``: the numbers of a text. The
    weights are those of ``TextTransformer(context_length=CONTEXT_LENGTH,
    vocab_size=words, width=WIDTH, heads=HEADS, layers=LAYERS,
    output_dim=dim)`` of open_clip 3, under the same names; loaded, never
    trained here.

    >>> tower = TextTower(5, 64)
    >>> tower(torch.tensor([[1, 2, 4] + 13 * [0]])).shape
    torch.Size([1, 64])
    """

    def __init__(self, words: int, dim: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(words, WIDTH)
        self.positional_embedding = nn.Parameter(
            torch.zeros(CONTEXT_LENGTH, WIDTH)
        )
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(
            _Block() for _ in range(LAYERS)
        )
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.zeros(WIDTH, dim))

    def forward(self, tokens: Int[Tensor, "K context"]) -> Float[Tensor, "K D"]:
        """One vector a text, not of unit length, from what ``tokenize``
        gives.
        """
        x = self.token_embedding(tokens) + self.positional_embedding
        # no token sees what comes after it
        length = x.shape[1]
        mask = x.new_full((length, length), -torch.inf).triu(1)
        for block in self.transformer.get_submodule("resblocks").children():
            x = block(x, mask)
        # the end mark has the largest number
        ends = tokens.argmax(dim=1)
        rows = torch.arange(len(x), device=x.device)
        pooled: Tensor = self.ln_final(x)[rows, ends]
        return pooled @ self.text_projection


class _Block(nn.Module):
    """Attention and two linear layers, each after a normalisation and with a
    skip.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(WIDTH, 4 * WIDTH),
                gelu=nn.GELU(),
                c_proj=nn.Linear(4 * WIDTH, WIDTH),
            )
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        normed = self.ln_1(x)
        attended, _ = self.attn(
            normed, normed, normed, need_weights=False, attn_mask=mask
        )
        x = x + attended
        result: Tensor = x + self.mlp(self.ln_2(x))
        return result
