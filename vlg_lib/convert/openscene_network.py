"""Make a published 3D network of OpenScene or 3DSS-VLG a checkpoint of this
library.

    python data_scripts/convert_checkpoint.py IN.pth.tar OUT.safetensors --classes scannet-20
    python -m vlg_lib predict my_scan.ply --checkpoint OUT.safetensors --out labelled.ply

The published networks give embeddings of 768 numbers in the space of OpenSeg,
which is that of CLIP ViT-L/14@336 at 336 pixels: the default teacher, whose
text tower open_clip downloads at the first prediction.
"""

from pathlib import Path
from typing import Annotated

import typer

from vlg_lib.artifacts import StoreError
from vlg_lib.classes import get_class_set, own_class_set
from vlg_lib.networks.openscene import load_published
from vlg_lib.networks.point_network import save_network
from vlg_lib.vision_language.openseg import TEXT_TOWER


def main(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN", help="The published file (.pth, .pth.tar)."
        ),
    ],
    out: Annotated[
        Path, typer.Argument(help="The checkpoint to write (.safetensors).")
    ],
    classes: Annotated[
        str,
        typer.Option(
            help="A known set (scannet-20, s3dis-13), or words with commas."
        ),
    ],
    architecture: Annotated[
        str, typer.Option(help="The network; the file does not name it.")
    ] = "MinkUNet18A",
    voxel_size: Annotated[float, typer.Option(help="Metres.")] = 0.02,
    teacher: Annotated[
        str,
        typer.Option(
            help="The vision-language model whose text tower belongs to it."
        ),
    ] = TEXT_TOWER,
    prompt: Annotated[
        str, typer.Option(help="What is said to the text tower of each class.")
    ] = "a {name} in a scene",
) -> None:
    """Read a published network, check it against its architecture, write it."""
    try:
        if out.suffix != ".safetensors":
            raise ValueError(
                f"{out}: expected the name of a .safetensors file to write"
            )
        if "{name}" not in prompt:
            raise ValueError(f"the prompt must hold {{name}}, found {prompt!r}")
        words = [word.strip() for word in classes.split(",")]
        class_set = (
            own_class_set(words) if len(words) > 1 else get_class_set(classes)
        )
        network = load_published(
            source, architecture=architecture, voxel_size=voxel_size
        )
    except (StoreError, ValueError) as error:
        raise SystemExit(f"nothing was written: {error}") from error
    save_network(
        out,
        network,
        half=False,
        teacher=teacher,
        prompt_template=prompt,
        class_set={"name": class_set.name, "names": list(class_set.names)},
        training={"published": source.name},
    )
    parameters = sum(parameter.numel() for parameter in network.parameters())
    print(
        f"{out}: {architecture}, {parameters:,} parameters,"
        f" {network.settings.channels} numbers a point"
    )


if __name__ == "__main__":
    typer.run(main)
