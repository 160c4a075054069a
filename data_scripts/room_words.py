"""The words that captions of rooms are made of: what a small model that was
trained on them knows.
"""

NAMES: dict[str, tuple[str, ...]] = {
    "ceiling": (),
    "floor": ("ground",),
    "wall": (),
    "window": (),
    "door": (),
    "table": ("desk",),
    "chair": ("seat",),
    "sofa": ("couch",),
    "bookcase": ("bookshelf", "shelf"),
    "board": ("whiteboard", "blackboard"),
    "bed": (),
    "cabinet": ("cupboard", "wardrobe"),
    "plant": (),
    "lamp": (),
    "screen": ("monitor", "television"),
    "box": ("carton",),
    "bin": ("basket",),
    "rug": ("carpet",),
    "picture": ("painting",),
}
"""The names of things with their synonyms: the twelve classes of Rooms-12 and
seven things that have no class there."""

COLORS = (
    "white",
    "cream",
    "beige",
    "brown",
    "grey",
    "black",
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
)
MATERIALS = (
    "painted",
    "wooden",
    "tiled",
    "striped",
    "checked",
    "brick",
    "fabric",
    "panelled",
)
SIZES = ("small", "large", "low", "tall", "narrow", "wide")
_OTHER = (
    "a",
    "an",
    "the",
    "this",
    "that",
    "some",
    "in",
    "of",
    "on",
    "at",
    "with",
    "and",
    "there",
    "is",
    "photo",
    "image",
    "view",
    "part",
    "scene",
    "room",
    "house",
    "office",
    "bedroom",
    "indoor",
    "by",
    "near",
    "to",
    "corner",
    "middle",
    "something",
    "thing",
    "sit",
    "sleep",
    "put",
    "store",
    "write",
    "look",
    "go",
    "walk",
    "through",
)

_PAD = "<pad>"
_END = "<end>"
_SYNONYMS = tuple(
    synonym for synonyms in NAMES.values() for synonym in synonyms
)
VOCABULARY: tuple[str, ...] = (
    _PAD,
    *_OTHER,
    *COLORS,
    *MATERIALS,
    *SIZES,
    *NAMES,
    *_SYNONYMS,
    _END,
)
"""All tokens. Padding is number 0 and the end mark has the largest number,
where open_clip's text tower pools."""
