r"""A published 3D network of OpenScene or 3DSS-VLG becomes a checkpoint.

::

    vlg convert openscene-network model.pth.tar \
        --out network.safetensors --class-set scannet-20
    vlg predict my_scan.ply --checkpoint network.safetensors --out labelled.ply

How many numbers a network gives for a point tells what it learnt from: 768 are
embeddings in the space of OpenSeg, whose texts are those of CLIP ViT-L/14@336;
512 are OpenScene's from LSeg (Li et al., "Language-driven Semantic
Segmentation", ICLR 2022), whose texts are those of CLIP ViT-B/32. open_clip
downloads the text tower at the first prediction.
"""

from dataclasses import dataclass
from pathlib import Path

from vlg_lib.classes import ClassSet
from vlg_lib.convert.scene_labels import known_classes
from vlg_lib.networks.openscene import load_published
from vlg_lib.networks.point_network import save_network
from vlg_lib.vision_language import model_dim
from vlg_lib.vision_language.openseg import DIM, TEXT_TOWER

LSEG_TEXT_TOWER = "open_clip/ViT-B-32-quickgelu/openai/maskclip"
"""The model whose texts LSeg learnt with."""

TEACHERS = {DIM: TEXT_TOWER, 512: LSEG_TEXT_TOWER}
"""The text tower of a published network, by how many numbers it gives."""


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
    teacher: str | None = None
    """The vision-language model whose text tower belongs to it; None for that
    of TEACHERS."""
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
    teacher: str
    """The vision-language model whose text tower belongs to it."""

    @property
    def failed(self) -> dict[str, str]:
        """Always empty: a file that cannot be converted is an error."""
        return {}

    def __str__(self) -> str:
        return (
            f"{self.out}: {self.architecture}, {self.parameters:,} parameters,"
            f" {self.channels} numbers a point, texts by {self.teacher}"
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
    teacher = _teacher(source, network.settings.channels, settings.teacher)
    save_network(
        out,
        network,
        half=False,
        teacher=teacher,
        prompt_template=settings.prompt,
        class_set={"name": class_set.name, "names": list(class_set.names)},
        training={"published": source.name},
    )
    return ConvertedNetwork(
        out,
        settings.architecture,
        sum(parameter.numel() for parameter in network.parameters()),
        network.settings.channels,
        teacher,
    )


def _teacher(source: Path, channels: int, named: str | None) -> str:
    """The model that a network of so many numbers learnt from: the one that is
    named, or that of TEACHERS.

    ValueError where its embeddings have another length, or nobody says it.
    """
    if named is None:
        if channels in TEACHERS:
            return TEACHERS[channels]
        known = " and ".join(map(str, TEACHERS))
        raise ValueError(
            f"{source}: gives {channels} numbers a point, and the published"
            f" networks {known}: name the model that it learnt from with"
            " --teacher"
        )
    length = model_dim(named)
    if length not in (None, channels):
        raise ValueError(
            f"{source}: gives {channels} numbers a point, and the texts of"
            f" {named} have {length}: name the model that it learnt from with"
            " --teacher"
        )
    return named
