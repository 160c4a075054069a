"""What limits a small model: each of the four scores on frames whose answers
are known by hand."""

import json

import small_vlm_limits as limits
import torch

from vlg_lib.classes import ROOMS_12

WORDS = torch.eye(len(ROOMS_12))
WALL, BED, SOFA = (ROOMS_12.index(name) for name in ("wall", "bed", "sofa"))


class Perfect:
    """A text tower whose words are the axes."""

    def text_embeddings(self, texts):
        return WORDS[: len(texts)]


def cells(says, labels, objects):
    """A frame whose cells say these classes, of these true classes, on these
    objects."""
    return limits.Cells(
        WORDS[says], torch.tensor(labels), torch.tensor(objects)
    )


def test_an_object_decides_by_the_mean_of_its_cells():
    frame = cells([BED, BED, WALL, WALL], [BED, BED, BED, WALL], [7, 7, 7, 3])
    assert limits.of_objects(frame, WORDS).tolist() == [BED, BED, BED, WALL]


def test_a_wrong_name_of_the_whole_object_stays_wrong():
    frame = cells([SOFA, SOFA, BED], [BED, BED, BED], [1, 1, 1])
    assert limits.of_objects(frame, WORDS).tolist() == [SOFA] * 3


def test_absent_classes_cannot_win():
    frame = limits.Cells(
        0.9 * WORDS[[SOFA, WALL]] + 0.4 * WORDS[[BED, BED]],
        torch.tensor([BED, WALL]),
        torch.arange(2),
    )
    assert limits.of_present(frame, WORDS).tolist() == [BED, WALL]


def test_the_probe_finds_what_the_words_do_not():
    """Beds and sofas say each other's name: the words are all wrong, but what
    is what can be read off."""
    frame = cells(
        [WALL, SOFA, BED] * 20, [WALL, BED, SOFA] * 20, list(range(60))
    )
    empty = limits.Cells(
        torch.zeros(0, len(ROOMS_12)),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0),
    )
    scores = limits.limits(Perfect(), [frame, empty], [frame], 60, 0)
    assert scores == {
        "plain": 33.3,
        "objects": 33.3,
        "present": 33.3,
        "probe": 100.0,
    }


def test_lines_of_the_command(monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv",
        [
            "small_vlm_limits.py",
            "small-attributes",
            "--rooms",
            "1",
            "--views",
            "1",
            "--cells",
            "200",
        ],
    )
    limits.main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["model"], row["shift"], row["rooms"]) for row in rows] == [
        ("small-attributes", 0.0, 1),
        ("small-attributes", 0.5, 1),
    ]
    assert all(30 < row["plain"] <= 100 for row in rows)
