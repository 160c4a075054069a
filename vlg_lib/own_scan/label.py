"""Labels for the points of one scan, and a network of its own.

A 2D model looks at the frames, stage 1 averages what it sees over them, and the
tags, the classes that a person says are there, rule all other words out.
Stages 2 and 3 then learn from these labels on this scan alone. Are poses and
depth right at all? :mod:`vlg_lib.own_scan.fuse` answers that without a model.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from vlg_lib.classes import own_class_set
from vlg_lib.data.layout import (
    read_manifest,
    read_scene,
    read_world_offset,
)
from vlg_lib.data.point_clouds import write_labelled
from vlg_lib.fusion import fuse_scene
from vlg_lib.networks.point_network import save_network
from vlg_lib.pipeline.options import RunOptions
from vlg_lib.pipeline.profiles import Profile
from vlg_lib.pipeline.run import open_run
from vlg_lib.pipeline.scenes import Scenes, folder_key
from vlg_lib.pseudo_labels import (
    PseudoLabels,
    class_probabilities,
    make_pseudo_labels,
)
from vlg_lib.scene import Scene
from vlg_lib.superpoints import SuperpointSettings, soft_vote, superpoints_of
from vlg_lib.training.devices import choose_device
from vlg_lib.vision_language import create_model
from vlg_lib.vision_language.prompts import (
    PromptSettings,
    class_embeddings,
    join_templates,
)
from vlg_lib.viz import save_page3d

OPEN_TEACHER = "open_clip/ViT-B-16-quickgelu/openai/naclip"
"""A 2D model that has seen photographs."""


ROOMS = "procedural rooms"
"""What made rooms say of their source."""


def is_converted(folder: Path) -> bool:
    """Whether a scene says that a converter made it: a scan of somebody."""
    return "converter" in read_manifest(folder)["provenance"]


def rooms_model(folder: Path, teacher: str) -> str:
    """What to say before a small model, which has seen the book's made rooms
    only, labels the scene in ``folder``; empty where the model has seen
    photographs, or the scene says that it is such a room.

    >>> from tempfile import TemporaryDirectory
    >>> from vlg_lib.rooms.scenes import make_rooms
    >>> size = {"views": 2, "width": 32, "height": 24, "progress": False}
    >>> with TemporaryDirectory() as root:
    ...     (folder,) = make_rooms(Path(root), [7], **size)
    ...     rooms_model(folder, "small-attributes")
    ''
    """
    made = read_manifest(folder)["provenance"]
    if not teacher.startswith("small-") or made.get("source") == ROOMS:
        return ""
    return (
        f"{teacher} knows the book's made rooms only, and {folder} does not say"
        " that it is one: on photographs its labels are noise; take"
        f" --teacher {OPEN_TEACHER}, or label the points alone with vlg predict"
    )


def label_scan(
    folder: Path,
    out: Path,
    tags: Sequence[str],
    model: str = "small-attributes",
    templates: Sequence[str] | None = None,
    *,
    superpoints: SuperpointSettings | None = None,
    device: str | None = None,
    progress: bool = True,
) -> dict[str, int]:
    """Label the points of a scene among ``tags``, the classes that a person
    says are there: stage 1 (paper, Sec. 3.1).

    Writes ``out/labelled.ply`` (the class colours, ``label`` and ``score``) and
    ``out/labelled.html``. ``model``: a name of
    :func:`vlg_lib.vision_language.create_model`; ``templates``: the prompts,
    ``a {name}`` for None. ``superpoints``: how the cloud is cut into pieces
    that get one label each by a soft vote (the scene's own where it ships
    some); None: no vote. Returns the points of each class, "not seen" for
    none. Tags that are not all in the scene's class set make a class set of
    their own. ``device``: where the model runs, see
    :func:`vlg_lib.training.devices.choose_device`. ValueError for no tags and
    for words that the model does not know; then nothing is written.

    >>> from tempfile import TemporaryDirectory
    >>> from vlg_lib.rooms.scenes import make_rooms
    >>> size = {"views": 4, "width": 64, "height": 48, "progress": False}
    >>> with TemporaryDirectory() as root:
    ...     (folder,) = make_rooms(Path(root), [7], **size)
    ...     tags = ["floor", "wall"]
    ...     counts = label_scan(folder, Path(root), tags, progress=False)
    >>> sorted(counts)
    ['floor', 'not seen', 'wall']
    """
    chosen_device = choose_device(device)
    scene = _tagged(folder, tags)
    teacher = create_model(model, device=chosen_device)
    known = scene.class_set.present(scene.scene_labels)
    found = class_embeddings(
        teacher, known, templates or PromptSettings().templates
    ).cpu()
    # The other classes are masked out: nobody needs to know their words.
    texts = found.new_zeros(len(scene.class_set), found.shape[1])
    texts[scene.scene_labels] = found
    fused = fuse_scene(scene, teacher.dense_embeddings, progress=progress)
    labels = make_pseudo_labels(fused, texts, scene.scene_labels)
    if superpoints is not None:
        probabilities = class_probabilities(fused, texts, scene.scene_labels)
        pieces = superpoints_of(scene, superpoints, progress=progress)
        labels = PseudoLabels(*soft_vote(probabilities, pieces))
    return _write_labels(
        folder,
        out / "labelled.ply",
        scene,
        labels,
        f"labels from {model} and tags",
    )


def train_on_scan(
    folder: Path,
    out: Path,
    tags: Sequence[str],
    profile: Profile,
    options: RunOptions | None = None,
    *,
    vote: bool = False,
) -> dict[str, int]:
    """Stages 1 to 3 on a single scan: labels from ``tags``, then an adapter and
    a 3D network that learn from them.

    Writes what :func:`label_scan` writes; ``out/trained.ply`` and ``.html``,
    the labels of the 3D network, which sees points and colours only, chosen
    among the tags; and ``out/network.safetensors``, which
    :func:`vlg_lib.own_scan.predict.predict` takes. ``profile``: the teacher,
    the prompts and the sizes of the trainings. What is made on the way is kept
    in the cache folder of ``options``, so a stopped run goes on. ``vote``: all
    points of a superpoint of the profile get one label, in both files; the
    network itself learns from the labels before the vote. Returns the
    points of each class, from the network. ValueError as in :func:`label_scan`.

    >>> from vlg_lib.pipeline.profiles import get_profile
    >>> tags, profile = ["floor", "wall"], get_profile("fast")
    >>> train_on_scan(Path("nowhere"), Path("out"), tags, profile)
    ... # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
        ...
    LayoutError: nowhere/scene.json: no such file: not a scene folder
    """
    scene, teacher = _tagged(folder, tags), profile.teacher.name
    taught = _among_tags(scene)
    scenes = Scenes.in_memory(
        [taught], [taught], keys={scene.name: folder_key(folder)}
    )
    run = open_run(profile, options=options, scenes=scenes)
    temperature = profile.pseudo_labels.temperature
    found = run.stages.pseudo_labels(taught)
    if vote:
        probabilities = class_probabilities(
            run.stages.fused(taught),
            run.stages.text_embeddings(),
            taught.scene_labels,
            temperature,
        )
        found = PseudoLabels(
            *soft_vote(probabilities, run.stages.superpoints(taught))
        )
    _write_labels(
        folder,
        out / "labelled.ply",
        scene,
        _in_class_set(scene, found),
        f"labels from {teacher} and tags",
    )
    scores = run.networks.scores("3dss-vlg", taught).cpu()
    probabilities = (scores / temperature).softmax(dim=1)
    confidence, labels = probabilities.max(dim=1)
    if vote:
        labels, confidence = soft_vote(
            probabilities, run.stages.superpoints(taught)
        )
    save_network(
        out / "network.safetensors",
        run.networks.trained("3dss-vlg").cpu(),
        class_set={
            "name": taught.class_set.name,
            "names": list(taught.class_set.names),
            "palette": taught.class_set.colors().tolist(),
        },
        teacher=teacher,
        prompt_template=join_templates(profile.prompts.templates),
        training={
            "scan": scene.name,
            "tags": list(tags),
            "profile": str(profile),
        },
    )
    return _write_labels(
        folder,
        out / "trained.ply",
        scene,
        _in_class_set(scene, PseudoLabels(labels, confidence)),
        "labels from its own 3D network",
    )


def _tagged(folder: Path, tags: Sequence[str]) -> Scene:
    """The scene with the tags that were typed; tags that are not all of its
    class set make one of their own, in which known classes keep their colours.
    """
    scene = read_scene(folder)
    class_set = scene.class_set
    if not set(tags) <= set(class_set.names):
        class_set = own_class_set(tags, like=class_set)
    return replace(
        scene, class_set=class_set, scene_labels=class_set.mask(tags)
    )


def _among_tags(scene: Scene) -> Scene:
    """The scene with its tags for the only classes: words of other classes need
    not be known to any model.
    """
    tags = scene.class_set.present(scene.scene_labels)
    class_set = scene.class_set
    if tags != class_set.names:
        class_set = own_class_set(tags, like=class_set)
    return replace(
        scene, class_set=class_set, scene_labels=class_set.mask(tags)
    )


def _in_class_set(scene: Scene, found: PseudoLabels) -> PseudoLabels:
    """Labels among the tags of a scene as indices into its class set."""
    places = scene.scene_labels.nonzero()[:, 0]
    labels = torch.where(
        found.labels < 0, found.labels, places[found.labels.clamp(min=0)]
    )
    return PseudoLabels(labels, found.confidence)


def _write_labels(
    folder: Path, path: Path, scene: Scene, found: PseudoLabels, title: str
) -> dict[str, int]:
    """Write the labelled points of the scene in ``folder``, at the places of
    its source, and a page of them; the points of each tag, and of none as "not
    seen".
    """
    offset, points = read_world_offset(folder), scene.points
    if bool(offset.any()):
        points = points.double() + offset
    write_labelled(
        path,
        tuple(points.numpy().T),
        found.labels,
        found.confidence,
        scene.class_set,
    )
    tags = scene.class_set.present(scene.scene_labels)
    alt = f"The points of {scene.name} in the colours of {', '.join(tags)}."
    save_page3d(
        path.with_suffix(".html"),
        scene.points,
        found.labels,
        scene.class_set,
        f"{scene.name}: {title}",
        alt=alt,
    )
    counts = {
        name: int((found.labels == scene.class_set.index(name)).sum())
        for name in tags
    }
    return counts | {"not seen": int((found.labels < 0).sum())}
