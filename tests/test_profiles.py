from dataclasses import asdict

import pytest

from vlg_lib.pipeline.profiles import PROFILES, get_profile


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
        assert published.network_steps == corrected.network_steps == steps
        assert {
            field
            for field, value in asdict(published).items()
            if asdict(corrected)[field] != value
        } == {
            "name",
            "normalize_views",
            "temperature",
            "depth_tolerance",
            "depth_slack",
            "balance",
            "augmentations",
            "convention",
        }


def test_every_profile_prints_its_sizes_and_has_rooms_of_all_four_kinds() -> (
    None
):
    for name, profile in PROFILES.items():
        assert profile.name == name
        assert f"train_rooms={profile.train_rooms}" in str(profile)
        assert profile.train_rooms >= 4
        assert profile.test_rooms >= 4
        assert 0 <= profile.shift <= 1
