"""The image towers of open_clip up to their last attention layer, for images of
any size and aspect ratio.

open_clip's models take squares of one size, because a ViT adds a learnt
embedding for each place of its grid. Resizing those embeddings, as is done to
train a ViT on at a higher resolution (Dosovitskiy et al., 2021, Sec. 3.2), lets
a frame keep its own aspect ratio.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, linear

from vlg_lib.vision_language.readouts import LastLayer


def resize_positions(
    positions: Float[Tensor, "N C"],
    native: tuple[int, int],
    grid: tuple[int, int],
) -> Float[Tensor, "M C"]:
    """Position embeddings of a ``native`` grid (rows, columns) for another one,
    by bicubic interpolation.

    Those before the grid's (the class token's) are kept as they are; at the
    native grid all are.

    >>> positions = torch.rand(1 + 4, 8)  # a class token and a 2 x 2 grid
    >>> resize_positions(positions, (2, 2), (2, 3)).shape
    torch.Size([7, 8])
    """
    if grid == native:
        return positions
    prefix = len(positions) - native[0] * native[1]
    field = (
        positions[prefix:].float().unflatten(0, native).permute(2, 0, 1)[None]
    )
    field = (
        interpolate(field, size=grid, mode="bicubic", antialias=True)[0]
        .flatten(1)
        .T
    )
    return torch.cat([positions[:prefix], field.to(positions.dtype)])


def block_layer(visual: Any, pixels: Float[Tensor, "B 3 H W"]) -> LastLayer:
    """The last residual block of open_clip's own ViT, which has a class token:
    OpenAI's, LAION's, MetaCLIP's, DFN's.

    >>> from open_clip.transformer import VisionTransformer
    >>> vit = VisionTransformer(32, 16, 8, 2, 2, 4.0, output_dim=6)
    >>> layer = block_layer(vit, torch.rand(1, 3, 32, 48))
    >>> layer.grid, layer.key.shape  # 6 patches and the class token
    ((2, 3), torch.Size([1, 2, 7, 4]))
    """
    field = visual.conv1(pixels)
    class_token = visual.class_embedding.expand(len(field), 1, -1)
    x = torch.cat([class_token, field.flatten(2).transpose(1, 2)], dim=1)
    grid = (field.shape[2], field.shape[3])
    x = visual.ln_pre(
        x
        + resize_positions(visual.positional_embedding, visual.grid_size, grid)
    )
    for before in visual.transformer.resblocks[:-1]:
        x = before(x)
    block = visual.transformer.resblocks[-1]
    projected = linear(
        block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias
    )
    query, key, value = projected.unflatten(
        -1, (3, block.attn.num_heads, -1)
    ).permute(2, 0, 3, 1, 4)

    def finish(attended: Tensor) -> Tensor:
        summed = x + block.ls_1(attended)
        return summed + block.ls_2(block.mlp(block.ln_2(summed)))

    def head(out: Tensor) -> Tensor:
        return visual.ln_post(out) @ visual.proj

    return LastLayer(
        query, key, value, grid, 1, block.attn.out_proj, finish, head
    )


def pool_layer(visual: Any, pixels: Float[Tensor, "B 3 H W"]) -> LastLayer:
    """The attention pooling at the end of a timm ViT (SigLIP, SigLIP 2).

    Its only query is learnt and asks about the image, so the patches have keys
    and values but no queries. What follows the pooling (an MLP with its
    residual) belongs to the head: it acts on one vector, be it the image's or a
    patch's.
    """
    trunk, pool = visual.trunk, visual.trunk.attn_pool
    field = trunk.patch_embed.proj(pixels)
    grid = (field.shape[2], field.shape[3])
    places = resize_positions(
        trunk.pos_embed[0], trunk.patch_embed.grid_size, grid
    )
    x = trunk.norm(
        trunk.blocks(trunk.norm_pre(field.flatten(2).transpose(1, 2) + places))
    )
    key, value = (
        pool.kv(x).unflatten(-1, (2, pool.num_heads, -1)).permute(2, 0, 3, 1, 4)
    )

    def head(out: Tensor) -> Tensor:
        return visual.head(
            trunk.head(trunk.fc_norm(out + pool.mlp(pool.norm(out))))
        )

    return LastLayer(
        None,
        pool.k_norm(key),
        value,
        grid,
        0,
        pool.proj,
        lambda attended: attended,
        head,
    )


class ClipTower(NamedTuple):
    """An image tower: its ``last_layer`` on normalised pixels, ``patch`` in
    pixels, the sides it was trained on, D.
    """

    last_layer: Callable[[Any, Tensor], LastLayer]
    patch: int
    side: int
    dim: int


def make_tower(visual: Any, name: str) -> ClipTower:
    """The tower of an open_clip model's ``visual`` module; ValueError for
    another architecture than the two known.
    """
    import timm
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    trunk = getattr(visual, "trunk", None)
    plain = isinstance(visual, VisionTransformer) and visual.attn_pool is None
    if plain and isinstance(
        visual.transformer.resblocks[-1], ResidualAttentionBlock
    ):
        return ClipTower(
            block_layer,
            visual.patch_size[0],
            min(visual.image_size),
            visual.proj.shape[1],
        )
    if (
        type(trunk) is timm.models.VisionTransformer
        and trunk.attn_pool is not None
        and not trunk.num_prefix_tokens
    ):
        dim = visual.head(trunk.head(torch.zeros(1, trunk.num_features))).shape[
            1
        ]
        return ClipTower(
            pool_layer,
            trunk.patch_embed.patch_size[0],
            min(visual.image_size),
            dim,
        )
    raise ValueError(
        f"{name}: no dense read-out for an image tower of type"
        f" {type(trunk or visual).__name__}; expected open_clip's"
        " VisionTransformer (OpenAI, LAION, MetaCLIP, DFN, CLIPA) or a timm"
        " ViT pooled by attention (SigLIP)"
    )
