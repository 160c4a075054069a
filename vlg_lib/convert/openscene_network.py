r"""A published 3D network of OpenScene or 3DSS-VLG becomes a checkpoint.

::

    vlg convert openscene-network model.pth.tar \
        --out network.safetensors --class-set scannet-20
    vlg predict my_scan.ply --checkpoint network.safetensors --out labelled.ply

The published networks give embeddings of 768 numbers in the space of OpenSeg,
which is that of CLIP ViT-L/14@336 at 336 pixels: the default teacher, whose
text tower open_clip downloads at the first prediction.
"""

from dataclasses import dataclass
from pathlib import Path

from vlg_lib.classes import ClassSet
from vlg_lib.convert.scene_labels import known_classes
from vlg_lib.networks.openscene import load_published
from vlg_lib.networks.point_network import save_network
from vlg_lib.vision_language.openseg import DIM, TEXT_TOWER


@dataclass(frozen=True)
class PublishedNetwork:
    """What a published file does not say about its network."""

    class_set: str = ""
    """The name of a known set of classes that it labels by default
    ("scannet-20", "s3dis-13")."""
    classes: tuple[str, ...] = ()
    """Words of your own, instead."""
    architecture: str = "MinkUNet18A"
    """The name of the network."""
    voxel_size: float = 0.02
    """Metres."""
    teacher: str = TEXT_TOWER
    """The vision-language model whose text tower belongs to it."""
    prompt: str = "a {name} in a scene"
    """What is said to the text tower of each class."""

    def __post_init__(self) -> None:
        if bool(self.class_set) == bool(self.classes):
            raise ValueError(
                "expected the classes as a known set or as words, found"
                f" {self.class_set!r} and {self.classes}; name one of the two"
            )
        if "{name}" not in self.prompt:
            raise ValueError(
                f"the prompt must hold {{name}}, found {self.prompt!r}"
            )

    def known_classes(self) -> ClassSet:
        """The class set; ValueError for an unknown or doubtful one."""
        return known_classes(self.class_set, self.classes)


@dataclass(frozen=True)
class ConvertedNetwork:
    """What was written; printed, it is one line."""

    out: Path
    """The checkpoint."""
    architecture: str
    """The name of the network."""
    parameters: int
    """How many numbers it has learnt."""
    channels: int
    """How many numbers it gives for a point."""

    @property
    def failed(self) -> dict[str, str]:
        """Always empty: a file that cannot be converted is an error."""
        return {}

    def __str__(self) -> str:
        return (
            f"{self.out}: {self.architecture}, {self.parameters:,} parameters,"
            f" {self.channels} numbers a point"
        )


def convert_network(
    source: Path, out: Path, settings: PublishedNetwork
) -> ConvertedNetwork:
    """Read a published network (``.pth``, ``.pth.tar``), check it against its
    architecture, and write the checkpoint ``out`` (``.safetensors``).

    ValueError (StoreError) where a setting or the file is wrong; then nothing
    is written.
    """
    if out.suffix != ".safetensors":
        raise ValueError(
            f"{out}: expected the name of a .safetensors file to write"
        )
    class_set = settings.known_classes()
    network = load_published(
        source,
        architecture=settings.architecture,
        voxel_size=settings.voxel_size,
    )
    _check_teacher(source, network.settings.channels, settings.teacher)
    save_network(
        out,
        network,
        half=False,
        teacher=settings.teacher,
        prompt_template=settings.prompt,
        class_set={"name": class_set.name, "names": list(class_set.names)},
        training={"published": source.name},
    )
    return ConvertedNetwork(
        out,
        settings.architecture,
        sum(parameter.numel() for parameter in network.parameters()),
        network.settings.channels,
    )


def _check_teacher(source: Path, channels: int, teacher: str) -> None:
    """ValueError where the network cannot live in the space of the text tower
    that is meant when nobody names one.
    """
    if teacher == TEXT_TOWER and channels != DIM:
        raise ValueError(
            f"{source}: gives {channels} numbers a point, and OpenSeg's text"
            f" tower {DIM}: name the model that it learnt from with --teacher"
            " (LSeg's texts are those of CLIP ViT-B/32:"
            " open_clip/ViT-B-32-quickgelu/openai/maskclip)"
        )
