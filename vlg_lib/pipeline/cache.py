"""What a run has made, in files: each artefact in one of safetensors, and
beside it a small manifest in JSON.

The name of an artefact carries a key: a hash of the settings and the seed that
it depends on, of the key of what it is made from, and of the code that makes
it. What is there is read, what is missing is made; so a run that was stopped
continues, two chapters share their work, and a change of the code remakes what
it touches and nothing else.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from jaxtyping import Float, Int64
from torch import Tensor

from vlg_lib.artifacts import (
    StoreError,
    load_tensors,
    read_json,
    save_tensors,
    write_json,
)
from vlg_lib.pseudo_labels import PseudoLabels
from vlg_lib.scene import PointEmbeddings


def default_cache() -> Path:
    """The folder of all artefacts: the environment variable VLG_CACHE, else
    ``~/.cache/vlg_lib``.
    """
    return Path(
        os.environ.get("VLG_CACHE") or Path.home() / ".cache" / "vlg_lib"
    )


@dataclass(frozen=True)
class Artifact:
    """One thing that a run keeps, whether it is made yet or not."""

    stage: str
    """What makes it, and the folder that it lies in: ``fused``, say."""
    name: str
    """What tells it from its neighbours to a reader: a scene, a network."""
    key: str
    """A hash of all that it depends on (:func:`vlg_lib.artifacts.key_of`)."""


@dataclass(frozen=True)
class Manifest:
    """What is said of a finished artefact, in ``NAME.json`` beside it."""

    stage: str
    """As in :class:`Artifact`."""
    name: str
    """As in :class:`Artifact`."""
    key: str
    """As in :class:`Artifact`."""
    seconds: float
    """What it took, without what it is made from."""
    step: int | None = None
    """Of a training: the steps that were taken."""


class Cache:
    """The artefacts of runs, in a folder: ``STAGE/NAME-KEY.safetensors``, each
    with its manifest ``STAGE/NAME-KEY.json``.

    The manifest is written last. Where both are, the artefact is finished; a
    process that is killed in between leaves nothing that is taken for whole.

    >>> import tempfile, torch
    >>> labels = PseudoLabels(torch.tensor([3]), torch.tensor([0.9]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache, made = Cache(Path(folder)), Artifact("labels", "room", "1f")
    ...     cache.write_pseudo_labels(made, labels, seconds=0.5)
    ...     made in cache, cache.manifest(made).seconds
    (True, 0.5)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, artifact: Artifact) -> Path:
        """Where the tensors of an artefact are kept."""
        name = f"{artifact.name}-{artifact.key}.safetensors"
        return self.folder / artifact.stage / name

    def manifest_path(self, artifact: Artifact) -> Path:
        """Where the manifest of an artefact is kept."""
        return self.path(artifact).with_suffix(".json")

    def __contains__(self, artifact: Artifact) -> bool:
        return (
            self.path(artifact).is_file()
            and self.manifest_path(artifact).is_file()
        )

    def manifest(self, artifact: Artifact) -> Manifest:
        """What is said of a finished artefact; its tensors are not opened.

        StoreError where it is not finished or its manifest is damaged.
        """
        path = self.manifest_path(artifact)
        try:
            return Manifest(**read_json(path))
        except TypeError as error:
            raise StoreError(
                f"{path}: expected a manifest of this library ({error});"
                " delete the file and make it again"
            ) from error

    def finish(
        self, artifact: Artifact, seconds: float, step: int | None = None
    ) -> None:
        """Write the manifest of an artefact whose tensors are in place."""
        made = Manifest(
            artifact.stage, artifact.name, artifact.key, seconds, step
        )
        write_json(self.manifest_path(artifact), asdict(made))

    def write_embeddings(
        self, artifact: Artifact, made: PointEmbeddings, seconds: float
    ) -> None:
        """Keep point embeddings, in half precision."""
        tensors = {
            "embeddings": made.embeddings.half(),
            "view_counts": made.view_counts,
        }
        save_tensors(self.path(artifact), tensors)
        self.finish(artifact, seconds)

    def read_embeddings(self, artifact: Artifact) -> PointEmbeddings:
        """Point embeddings as they are kept: float16 in a mapped file, of which
        no more is read than is asked for.

        StoreError where the file is missing or damaged.
        """
        tensors, _ = load_tensors(self.path(artifact))
        return PointEmbeddings(tensors["embeddings"], tensors["view_counts"])

    def write_pseudo_labels(
        self, artifact: Artifact, made: PseudoLabels, seconds: float
    ) -> None:
        """Keep pseudo labels."""
        tensors = {"labels": made.labels, "confidence": made.confidence}
        save_tensors(self.path(artifact), tensors)
        self.finish(artifact, seconds)

    def read_pseudo_labels(self, artifact: Artifact) -> PseudoLabels:
        """Pseudo labels that are kept; StoreError where the file is missing or
        damaged.
        """
        tensors, _ = load_tensors(self.path(artifact))
        return PseudoLabels(tensors["labels"], tensors["confidence"])

    def write_superpoints(
        self, artifact: Artifact, made: Int64[Tensor, " N"], seconds: float
    ) -> None:
        """Keep the superpoint of every point."""
        save_tensors(self.path(artifact), {"superpoints": made})
        self.finish(artifact, seconds)

    def read_superpoints(self, artifact: Artifact) -> Int64[Tensor, " N"]:
        """Superpoints that are kept; StoreError where the file is missing or
        damaged.
        """
        tensors, _ = load_tensors(self.path(artifact))
        return tensors["superpoints"]

    def write_beliefs(
        self, artifact: Artifact, made: Float[Tensor, "R K"], seconds: float
    ) -> None:
        """Keep what is believed of every superpoint."""
        save_tensors(self.path(artifact), {"beliefs": made})
        self.finish(artifact, seconds)

    def read_beliefs(self, artifact: Artifact) -> Float[Tensor, "R K"]:
        """Beliefs that are kept; StoreError where the file is missing or
        damaged.
        """
        tensors, _ = load_tensors(self.path(artifact))
        return tensors["beliefs"]
