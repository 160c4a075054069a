import ast
import inspect
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass, replace
from itertools import pairwise
from typing import Any, get_type_hints

import pytest

from vlg_lib.pipeline.options import RunOptions
from vlg_lib.pipeline.profiles import (
    PROFILES,
    Profile,
    get_profile,
    with_words,
)
from vlg_lib.training.loop import FitSettings, Optimization


def flat(parts: dict[str, Any], before: str = "") -> dict[str, Any]:
    """The settings of a profile by their whole names."""
    found: dict[str, Any] = {}
    for name, value in parts.items():
        found |= (
            flat(value, f"{before}{name}.")
            if isinstance(value, dict)
            else {before + name: value}
        )
    return found


def test_auto_follows_the_variable_then_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLG_PROFILE", "book")
    assert get_profile("auto").name == "book"
    monkeypatch.delenv("VLG_PROFILE")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert get_profile().name == "colab"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert get_profile().name == "fast"


def test_an_explicit_name_beats_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLG_PROFILE", "book")
    assert get_profile("fast").name == "fast"


def test_unknown_names_are_refused_wherever_they_come_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(
        ValueError,
        match="unknown profile 'tiny'; known: auto, fast, colab, book, full",
    ):
        get_profile("tiny")
    monkeypatch.setenv("VLG_PROFILE", "quick")
    with pytest.raises(ValueError, match="unknown profile 'quick'"):
        get_profile("auto")


def test_the_published_and_the_corrected_protocol_differ_as_told() -> None:
    for name, steps in (("paper-scannet", 75_062), ("paper-s3dis", 12_750)):
        published, corrected = PROFILES[name], PROFILES[f"{name}-corrected"]
        # 100 epochs x 5 x scenes / 8, rounded down
        assert published.training.steps == corrected.training.steps == steps
        one, other = flat(asdict(published)), flat(asdict(corrected))
        assert one.keys() == other.keys()
        assert {field for field in one if one[field] != other[field]} == {
            "name",
            "fusion.normalize",
            "fusion.sampling",
            "pseudo_labels.temperature",
            "visibility.tolerance",
            "visibility.slack",
            "balance",
            "evaluation.augmentations",
            "evaluation.convention",
        }


def test_every_profile_prints_its_sizes_and_has_rooms_of_all_four_kinds() -> (
    None
):
    for name, profile in PROFILES.items():
        assert profile.name == name
        assert f"rooms: train={profile.rooms.train}, " in str(profile)
        assert profile.rooms.train >= 4
        assert profile.rooms.test >= 4
        assert 0 <= profile.rooms.shift <= 1


def test_a_profile_prints_a_line_for_each_part() -> None:
    lines = str(PROFILES["paper-scannet"]).splitlines()
    starts = [line.partition(":")[0].strip() for line in lines if ":" in line]
    assert lines[0] == "paper-scannet"
    assert [field.name for field in fields(Profile)][1:] == [
        start for start in starts if "." not in start
    ]
    assert "  cam.training: steps=10000, batch_rooms=4, crop=5," in str(
        PROFILES["paper-scannet"]
    )
    assert max(map(len, lines)) <= 80


def test_other_words_leave_the_rest_of_a_profile_alone() -> None:
    fast = PROFILES["fast"]
    assert with_words(fast) == fast
    other = with_words(
        fast, "openseg", ["the {name}"], {"sofa": ["couch", "settee"]}
    )
    assert other.teacher.name == "openseg"
    assert other.prompts.templates == ("the {name}",)
    assert other.prompts.synonyms == {"sofa": ("couch", "settee")}
    words = {"teacher": fast.teacher, "prompts": fast.prompts}
    assert replace(other, **words) == fast


def settings_classes(found: type) -> Iterator[type]:
    """A settings dataclass and those that it is composed of."""
    yield found
    for hint in get_type_hints(found).values():
        if is_dataclass(hint):
            yield from settings_classes(hint)


@pytest.mark.parametrize(
    "settings",
    sorted(
        {*settings_classes(Profile), RunOptions, FitSettings, Optimization},
        key=lambda found: found.__name__,
    ),
    ids=lambda found: found.__name__,
)
def test_every_setting_says_what_it_means(settings: type) -> None:
    """A text stands under each field, which the reader of the source meets."""
    (definition,) = ast.parse(inspect.getsource(settings)).body
    assert isinstance(definition, ast.ClassDef)
    silent = [
        node.target.id
        for node, after in pairwise([*definition.body, None])
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and not (
            isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        )
    ]
    assert silent == []
    assert settings.__dataclass_params__.frozen


def test_the_parts_of_a_profile_are_those_of_the_design() -> None:
    assert {found.__name__ for found in settings_classes(Profile)} == {
        "AdapterSettings",
        "Augmentation",
        "CamSettings",
        "EvaluationSettings",
        "FusionSettings",
        "NetworkSettings",
        "Profile",
        "PromptSettings",
        "PseudoLabelSettings",
        "RoomsSettings",
        "SuperpointSettings",
        "CoTrainingSettings",
        "TeacherSettings",
        "TrainingSettings",
        "Visibility",
    }
