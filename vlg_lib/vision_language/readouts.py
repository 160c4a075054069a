"""Six ways to read patches out of a CLIP, each one equation over its last
attention layer (chapter 02).

A CLIP is trained to give one vector an image, so nothing asks its last layer to
keep at a patch what is there: its patch tokens mix in the whole image. All that
happens below is in that one layer; every layer before it is untouched, and
nothing is trained. With tokens X, their queries q, keys k and values v (one set
a head, of d numbers), the layer computes ``X_attn = Proj(softmax(q k^T /
sqrt(d)) v)``, ``X_sum = X + X_attn``, ``X_out = X_sum + FFN(LN(X_sum))``; the
read-outs differ in the weights of the values, and in whether X (the residual)
and the FFN stay.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize, pad


@dataclass(frozen=True)
class LastLayer:
    """The last attention layer of an image tower, for B images of L tokens.

    ``query`` is None where one learnt query pools all tokens (SigLIP).
    ``prefix`` tokens (the class token) stand before the patches of the ``grid``
    (rows, columns). ``project`` maps values to X_attn, ``finish`` maps X_attn
    to X_out, ``head`` maps tokens to the space of the texts. ``proxy``:
    features of the same patches from another model.

    >>> rows = torch.rand(1, 1, 4, 8)  # one image, one head, four patches
    >>> same = lambda tokens: tokens
    >>> layer = LastLayer(rows, rows, rows, (2, 2), 0, same, same, same)
    >>> layer.mix(torch.eye(4)[None, None]).equal(rows[0])
    True
    """

    query: Any  # Float[Tensor, "B heads L d"] or None
    key: Float[Tensor, "B heads L d"]
    value: Float[Tensor, "B heads L d"]
    grid: tuple[int, int]
    prefix: int
    project: Callable[[Float[Tensor, "B M C"]], Float[Tensor, "B M C"]]
    finish: Callable[[Float[Tensor, "B M C"]], Float[Tensor, "B M C"]]
    head: Callable[[Float[Tensor, "B M C"]], Float[Tensor, "B M D"]]
    proxy: Any = None  # Float[Tensor, "B patches F"]

    def mix(
        self, weights: Float[Tensor, "#B #heads M L"]
    ) -> Float[Tensor, "B M C"]:
        """X_attn where token i takes the values in the shares ``weights[..., i,
        :]``.
        """
        return self.project((weights @ self.value).transpose(1, 2).flatten(2))


def scores(
    a: Float[Tensor, "B heads L d"], b: Float[Tensor, "B heads L d"]
) -> Float[Tensor, "B heads L L"]:
    """The scores a b^T / sqrt(d): how much each token looks at each other one,
    before the softmax.
    """
    return a @ b.transpose(-1, -2) / math.sqrt(a.shape[-1])


def tokens(layer: LastLayer) -> Float[Tensor, "B L C"]:
    """The patch tokens as the model makes them: softmax(q k^T / sqrt(d)) v,
    residual and FFN (Radford et al., 2021).

    >>> rows = torch.rand(1, 1, 4, 8)  # one image, one head, four patches
    >>> same = lambda tokens: tokens
    >>> layer = LastLayer(rows, rows, rows, (2, 2), 0, same, same, same)
    >>> tokens(layer).shape
    torch.Size([1, 4, 8])
    """
    return layer.finish(layer.mix(scores(layer.query, layer.key).softmax(-1)))


def maskclip(layer: LastLayer) -> Float[Tensor, "B L C"]:
    """MaskCLIP (Zhou et al., ECCV 2022, Sec. 3.2): every token keeps its own
    value; the residual and the FFN stay.

    >>> rows = torch.rand(1, 1, 4, 8)  # one image, one head, four patches
    >>> same = lambda tokens: tokens
    >>> layer = LastLayer(rows, rows, rows, (2, 2), 0, same, same, same)
    >>> maskclip(layer).equal(rows[0])  # each patch keeps its own value
    True
    """
    return layer.finish(layer.project(layer.value.transpose(1, 2).flatten(2)))


def sclip(layer: LastLayer) -> Float[Tensor, "B L C"]:
    """SCLIP (Wang et al., ECCV 2024): softmax(q q^T / sqrt(d)) + softmax(k k^T
    / sqrt(d)); residual and FFN stay.

    >>> rows = torch.rand(1, 1, 4, 8)  # one image, one head, four patches
    >>> same = lambda tokens: tokens
    >>> layer = LastLayer(rows, rows, rows, (2, 2), 0, same, same, same)
    >>> sclip(layer).shape
    torch.Size([1, 4, 8])
    """
    by_query = scores(layer.query, layer.query).softmax(-1)
    by_key = scores(layer.key, layer.key).softmax(-1)
    return layer.finish(layer.mix(by_query + by_key))


def clearclip(layer: LastLayer) -> Float[Tensor, "B L C"]:
    """ClearCLIP (Lan et al., ECCV 2024): softmax(q q^T / sqrt(d)), and no
    residual, no FFN: X_out = X_attn.

    >>> rows = torch.rand(1, 1, 4, 8)  # one image, one head, four patches
    >>> same = lambda tokens: tokens
    >>> layer = LastLayer(rows, rows, rows, (2, 2), 0, same, same, same)
    >>> clearclip(layer).shape
    torch.Size([1, 4, 8])
    """
    return layer.mix(scores(layer.query, layer.query).softmax(-1))


def naclip(layer: LastLayer, sigma: float = 5.0) -> Float[Tensor, "B L C"]:
    """NACLIP (Hajimiri et al., WACV 2025): softmax(k k^T / sqrt(d) + w), no
    residual, no FFN.

    w is 1 from a patch to itself and falls off with the distance r, in patches,
    as exp(-r^2 / (2 sigma^2)); it is 0 from and to the class token.

    >>> rows = torch.rand(1, 1, 4, 8)  # one image, one head, four patches
    >>> same = lambda tokens: tokens
    >>> layer = LastLayer(rows, rows, rows, (2, 2), 0, same, same, same)
    >>> naclip(layer).shape
    torch.Size([1, 4, 8])
    """
    rows, columns = (
        torch.arange(size, device=layer.key.device, dtype=torch.float32)
        for size in layer.grid
    )
    places = torch.cartesian_prod(rows, columns)
    nearness = torch.exp(
        -torch.cdist(places, places).square() / (2 * sigma**2)
    ).to(layer.key.dtype)
    return layer.mix(
        (
            scores(layer.key, layer.key)
            + pad(nearness, (layer.prefix, 0, layer.prefix, 0))
        ).softmax(-1)
    )


def proxyclip(
    layer: LastLayer, gamma: float = 3.0, beta: float = 1.2
) -> Float[Tensor, "B L C"]:
    """ProxyCLIP (Lan et al., ECCV 2024): the attention of another model f, no
    residual, no FFN.

    With cosines s_ij of the features f_i and f_j, the scores are gamma (s_ij -
    beta mean(s)); negative ones are left out before the softmax. Our one
    addition: a patch never leaves out itself, so an image of one colour has an
    answer.

    >>> rows = torch.rand(1, 1, 4, 8)  # one image, one head, four patches
    >>> same = lambda tokens: tokens
    >>> lent = torch.rand(1, 4, 6)  # another model's features of the patches
    >>> layer = LastLayer(rows, rows, rows, (2, 2), 0, same, same, same, lent)
    >>> proxyclip(layer).shape
    torch.Size([1, 4, 8])
    """
    features = normalize(layer.proxy, dim=-1)
    cosines = features @ features.transpose(1, 2)
    shifted = gamma * (cosines - beta * cosines.mean((1, 2), keepdim=True))
    itself = torch.eye(
        shifted.shape[-1], dtype=torch.bool, device=shifted.device
    )
    weights = shifted.masked_fill((shifted < 0) & ~itself, -math.inf).softmax(
        -1
    )
    return layer.mix(pad(weights, (layer.prefix, 0, layer.prefix, 0))[:, None])


READOUTS: dict[str, Callable[[LastLayer], Tensor]] = {
    readout.__name__: readout
    for readout in (tokens, maskclip, sclip, clearclip, naclip, proxyclip)
}
"""The read-outs by name."""

NEED_QUERIES = ("tokens", "sclip", "clearclip")
"""Read-outs that ask every patch for its query, which a tower that pools by
attention does not have."""
