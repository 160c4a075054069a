"""The second labeller of a run: what stage 1 and the shapes of superpoints
together believe of its training rooms.
"""

import time
from dataclasses import asdict

from jaxtyping import Float
from torch import Tensor

from vlg_lib.artifacts import code_key, key_of
from vlg_lib.co_training import co_train, make_pieces
from vlg_lib.pipeline.cache import Artifact
from vlg_lib.pipeline.stages import Stages
from vlg_lib.scene import Scene
from vlg_lib.training import distributed


class CoTrained:
    """Beliefs of the superpoints of all training rooms, made at once, since
    each room is judged by what the others teach.
    """

    def __init__(self, stages: Stages) -> None:
        self.stages = stages

    def artifact(self, scene: Scene, *, masked: bool = True) -> Artifact:
        """The beliefs of a training room, and what they depend on."""
        stages = self.stages
        key = key_of(
            rooms=[
                [
                    stages.pseudo_labels_artifact(room, masked=masked).key,
                    stages.superpoints_artifact(room).key,
                ]
                for room in stages.scenes.split("train")
            ],
            code=code_key("vlg_lib.co_training"),
            settings=asdict(stages.profile.co_training),
            seed=stages.seed,
            masked=masked,
        )
        return Artifact("co_trained", scene.name, key)

    def make(self, *, masked: bool = True) -> None:
        """Make the beliefs of all training rooms that are not there yet; of
        several processes one does.
        """
        stages, rooms = self.stages, self.stages.scenes.split("train")
        artifacts = [self.artifact(room, masked=masked) for room in rooms]
        if distributed.rank() == 0 and not all(
            artifact in stages.cache for artifact in artifacts
        ):
            started = time.perf_counter()
            pieces = [
                make_pieces(
                    room.points,
                    stages.superpoints(room),
                    stages.probabilities(room, masked=masked),
                    room.scene_labels if masked else None,
                )
                for room in rooms
            ]
            made = co_train(
                pieces, stages.profile.co_training, seed=stages.seed
            )
            seconds = (time.perf_counter() - started) / len(rooms)
            for artifact, beliefs in zip(artifacts, made, strict=True):
                stages.cache.write_beliefs(artifact, beliefs, seconds)
        distributed.barrier()

    def probabilities(
        self, scene: Scene, *, masked: bool = True
    ) -> Float[Tensor, "N K"]:
        """What both labellers believe of the points of a training room; made
        by :meth:`make` before.
        """
        artifact = self.artifact(scene, masked=masked)
        beliefs = self.stages.cache.read_beliefs(artifact)
        _, index = self.stages.superpoints(scene).unique(return_inverse=True)
        return beliefs[index]
