"""What the tests of pages share: their commands, typed as they are printed, and
stand-ins for what cannot be downloaded or takes hours."""

import re
import shlex
from dataclasses import replace

import pytest
import torch
import typer
from torch.nn.functional import avg_pool2d, normalize
from typer.testing import CliRunner

from vlg_lib import cli, vision_language
from vlg_lib.pipeline import profiles
from vlg_lib.pipeline.profiles import Profile
from vlg_lib.pipeline.table import Table
from vlg_lib.vision_language import VisionLanguageModel

ASKED: list[str] = []
"""The 2D models that were asked for."""


class Guess(VisionLanguageModel):
    """768 numbers from colours and from words, in no relation."""

    name, dim, stride = "guess", 768, 16

    def dense_embeddings(self, image):
        small = avg_pool2d(image.permute(2, 0, 1)[None].float() - 127, 16)[
            0
        ].permute(1, 2, 0)
        return normalize(
            small
            @ torch.randn(3, 768, generator=torch.Generator().manual_seed(0)),
            dim=2,
        )

    def text_embeddings(self, texts):
        seeds = [
            torch.Generator().manual_seed(sum(text.encode())) for text in texts
        ]
        return normalize(
            torch.stack([torch.randn(768, generator=seed) for seed in seeds]),
            dim=1,
        )


def small(profile: Profile) -> Profile:
    """The profile with trainings of seconds."""
    short = {"steps": 1, "batch_rooms": 2}
    return replace(
        profile,
        adapter=replace(profile.adapter, steps=3, points_per_room=500),
        network=replace(
            profile.network, architecture="MinkUNetSmall", voxel_size=0.2
        ),
        training=replace(profile.training, **short),
        cam=replace(
            profile.cam, training=replace(profile.cam.training, **short)
        ),
        evaluation=replace(profile.evaluation, augmentations=1),
    )


def stand_in(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Small sizes for the profiles of these names, a model that guesses for
    OpenSeg and those of open_clip, and one 3D network in the table."""
    for name in names:
        short = small(profiles.PROFILES[name])
        monkeypatch.setitem(profiles.PROFILES, name, short)
    rows = Table.rows
    # others: test_pipeline.py
    monkeypatch.setattr(Table, "rows", lambda self: rows(self, ["3dss-vlg"]))
    ASKED.clear()

    def from_the_web(rest: str, **_) -> Guess:
        ASKED.append(f"open_clip/{rest}")
        return Guess()

    def openseg(**_) -> Guess:
        ASKED.append("openseg")
        return Guess()

    monkeypatch.setitem(vision_language._FAMILIES, "open_clip", from_the_web)
    monkeypatch.setattr(vision_language, "OpenSegModel", openseg)


def commands(text: str) -> list[list[str]]:
    """The commands in the blocks of a page, in words; lines that end with a
    backslash go on."""
    blocks = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [
        shlex.split(line)
        for block in blocks
        for line in block.replace("\\\n", "").splitlines()
        if line.startswith(("vlg ", "python "))
    ]


def type_in(words: list[str]) -> str:
    """Run a command ``vlg ...`` in this process; its output."""
    program, *arguments = words
    assert program == "vlg", shlex.join(words)
    if "--jobs" in arguments:  # each process would import torch
        arguments[arguments.index("--jobs") + 1] = "1"
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, (shlex.join(words), result.output)
    return result.output


def options_of(command=None) -> set[str]:
    """Every option of every command."""
    command = command or typer.main.get_command(cli.app)
    found = {option for each in command.params for option in each.opts}
    found.add("--help")
    for child in getattr(command, "commands", {}).values():
        found |= options_of(child)
    return found
