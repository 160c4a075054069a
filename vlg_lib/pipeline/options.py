"""Where and how a run is made: none of it changes what is computed, but for
where its scenes and embeddings come from.
"""

from dataclasses import dataclass
from pathlib import Path

from vlg_lib.training import distributed
from vlg_lib.training.devices import choose_device


@dataclass(frozen=True)
class RunOptions:
    """The folders of a run, its device, and what it shows."""

    cache_folder: Path | None = None
    """Where artefacts are kept; None:
    :func:`vlg_lib.pipeline.cache.default_cache`."""
    scenes_folder: Path | None = None
    """A folder of scene folders, or one with ``train`` and ``test`` folders of
    scene folders (without them, all scenes are both); None: made rooms."""
    fused_folder: Path | None = None
    """Where P^2D of each scene is taken from, ``NAME.safetensors``
    (:mod:`vlg_lib.data.embedding_files`); None: made from the images."""
    keep_gb: float = 0.0
    """Gigabytes of dense embeddings of frames that are kept for runs with other
    settings of projection (:mod:`vlg_lib.vision_language.cache`); 0 keeps none:
    each frame is embedded and fused."""
    device: str | None = None
    """``cpu``, ``cuda``, ``cuda:1``; None: CUDA where there is one."""
    progress: bool | None = None
    """Whether there are progress bars; None: in every profile but ``fast``. Of
    several processes only the main one shows any."""

    @property
    def torch_device(self) -> str:
        """The device that is meant; ValueError for one that is not here."""
        return str(choose_device(self.device))

    def has_bars(self, profile: str) -> bool:
        """Whether this process shows progress bars with a profile of this
        name.
        """
        wanted = profile != "fast" if self.progress is None else self.progress
        return wanted and distributed.rank() == 0
