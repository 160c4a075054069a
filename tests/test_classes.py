"""Class sets, and whether their palette can be told apart with a colour-vision
deficiency."""

import numpy as np
import pytest
import torch

from vlg_lib.classes import (
    CLASS_SETS,
    ROOMS_12,
    S3DIS_13,
    SCANNET_20,
    UNLABELLED_COLOR,
    ClassSet,
    get_class_set,
    own_class_set,
)

# Machado, Oliveira & Fernandes, "A physiologically-based model for simulation
# of color vision deficiency" (2009), severity 1.0, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}


def to_lab(rgb, vision="normal"):
    """sRGB (0-255) as a person with this vision sees it, in CIE Lab (D65)."""
    rgb = np.asarray(rgb, dtype=float) / 255
    linear = np.where(
        rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4
    )
    linear = np.clip(linear @ np.asarray(VISION[vision]).T, 0, 1)
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    xyz = linear @ np.array(to_xyz).T / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack(
        [
            116 * f[..., 1] - 16,
            500 * (f[..., 0] - f[..., 1]),
            200 * (f[..., 1] - f[..., 2]),
        ],
        axis=-1,
    )


def ciede2000(first, second):
    """Colour difference of CIE 142-2001 between two Lab colours (scalars)."""
    (l1, a1, b1), (l2, a2, b2) = first, second
    mean_c = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 0.5 * (1 - np.sqrt(mean_c**7 / (mean_c**7 + 25.0**7)))
    a1, a2 = a1 * (1 + g), a2 * (1 + g)
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = (
        np.degrees(np.arctan2(b1, a1)) % 360,
        np.degrees(np.arctan2(b2, a2)) % 360,
    )
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0.0
    delta_h = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    mean_l, mean_c = (l1 + l2) / 2, (c1 + c2) / 2
    mean_h = (h1 + turn / 2) % 360 if c1 * c2 else h1 + h2
    t = (
        1
        - 0.17 * np.cos(np.radians(mean_h - 30))
        + 0.24 * np.cos(np.radians(2 * mean_h))
        + 0.32 * np.cos(np.radians(3 * mean_h + 6))
        - 0.20 * np.cos(np.radians(4 * mean_h - 63))
    )
    s_l = 1 + 0.015 * (mean_l - 50) ** 2 / np.sqrt(20 + (mean_l - 50) ** 2)
    s_c, s_h = 1 + 0.045 * mean_c, 1 + 0.015 * mean_c * t
    angle = 60 * np.exp(-(((mean_h - 275) / 25) ** 2))
    r_t = (
        -2
        * np.sqrt(mean_c**7 / (mean_c**7 + 25.0**7))
        * np.sin(np.radians(angle))
    )
    dl, dc, dh = (l2 - l1) / s_l, (c2 - c1) / s_c, delta_h / s_h
    return float(np.sqrt(dl**2 + dc**2 + dh**2 + r_t * dc * dh))


def closest_pair(palette, vision):
    lab = to_lab(palette, vision)
    return min(
        ciede2000(lab[i], lab[j]) for i in range(len(lab)) for j in range(i)
    )


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    # from Sharma, Wu & Dalal, "The CIEDE2000 color-difference formula" (2005),
    # table 1
    [
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ],
)
def test_the_distance_is_ciede2000(first, second, expected):
    assert ciede2000(first, second) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("vision", VISION)
def test_colours_stay_apart_for_every_vision(vision):
    assert closest_pair(ROOMS_12.palette, vision) >= 17
    assert closest_pair(SCANNET_20.palette, vision) >= 9.5
    grey, white = (
        to_lab(UNLABELLED_COLOR, vision),
        to_lab((255, 255, 255), vision),
    )
    for color in to_lab(SCANNET_20.palette, vision):
        assert ciede2000(color, grey) >= 9
        assert ciede2000(color, white) >= 9


def test_mask_and_present_are_inverse():
    mask = ROOMS_12.mask(["bed", "floor"])
    assert mask.dtype == torch.bool
    assert mask.nonzero().flatten().tolist() == [1, 10]
    assert ROOMS_12.present(mask) == ("floor", "bed")
    assert not ROOMS_12.mask([]).any()


def test_sizes_and_names():
    assert [
        len(class_set) for class_set in (ROOMS_12, SCANNET_20, S3DIS_13)
    ] == [12, 20, 13]
    assert SCANNET_20.index("toilet") == 16
    assert S3DIS_13.names[-1] == "clutter"
    assert SCANNET_20.prompts("a {name} in a scene")[1] == "a floor in a scene"
    assert ROOMS_12.prompts() == ROOMS_12.names
    for class_set in CLASS_SETS.values():
        assert get_class_set(class_set.name) is class_set
        assert class_set.colors().tolist() == [
            list(color) for color in class_set.palette
        ]


def test_unknown_names_are_named():
    with pytest.raises(ValueError, match=r"'sofe'.*known: ceiling"):
        ROOMS_12.mask(["floor", "sofe"])
    with pytest.raises(ValueError, match=r"'rooms'.*rooms-12"):
        get_class_set("rooms")


@pytest.mark.parametrize(
    ("names", "palette"),
    [((), ()), (("a", "a"), ((0, 0, 0),) * 2), (("a", "b"), ((0, 0, 0),))],
)
def test_inconsistent_class_sets_are_refused(names, palette):
    with pytest.raises(ValueError, match="class set 'x'"):
        ClassSet("x", names, palette)


def test_own_words_repeat_the_palette():
    words = own_class_set([f"thing {i}" for i in range(23)])
    assert len(words) == 23
    assert words.palette[20] == words.palette[0]
