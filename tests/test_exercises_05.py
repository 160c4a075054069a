"""Chapter 05's exercise checks pass the solution and fail typical wrong answers
with a hint."""

import math

import pytest
import torch
from torch import Tensor

from vlg_lib.exercises import chapter05 as exercises


def log_sum_exp(scores: Tensor, sharpness: float) -> Tensor:
    return (
        (sharpness * scores).logsumexp(dim=0) - math.log(len(scores))
    ) / sharpness


def test_log_sum_exp(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_log_sum_exp(log_sum_exp)
    assert "ok: log_sum_exp" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="sum or mean"):
        exercises.check_log_sum_exp(lambda s, r: (r * s).logsumexp(dim=0) / r)
    with pytest.raises(AssertionError, match="divided by it after"):
        exercises.check_log_sum_exp(
            lambda s, r: (r * s).logsumexp(dim=0) - math.log(len(s))
        )
    with pytest.raises(AssertionError, match="overflow"):
        exercises.check_log_sum_exp(
            lambda s, r: (r * s).exp().mean(dim=0).log() / r
        )
    with pytest.raises(AssertionError, match="each of the 2 classes"):
        exercises.check_log_sum_exp(lambda s, r: log_sum_exp(s.T, r).mean())
    with pytest.raises(AssertionError, match="returns nothing yet"):
        exercises.check_log_sum_exp(lambda s, r: None)


def tag_bits(tags: Tensor) -> Tensor:
    share = tags.double().mean(dim=0)
    return -(
        torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share)
    ) / math.log(2)


def as_floats(function: object) -> object:
    return lambda tags: function(tags).float()  # type: ignore[operator]


def test_tag_bits(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_tag_bits(as_floats(tag_bits))
    assert "ok: tag_bits" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="nats"):
        exercises.check_tag_bits(
            as_floats(lambda tags: tag_bits(tags) * math.log(2))
        )
    with pytest.raises(AssertionError, match="0 log 0"):
        exercises.check_tag_bits(
            lambda tags: -(tags.float().mean(0) * tags.float().mean(0).log2())
        )
    with pytest.raises(AssertionError, match="both answers count"):
        exercises.check_tag_bits(
            lambda tags: (
                -torch.xlogy(tags.float().mean(0), tags.float().mean(0))
                / math.log(2)
            )
        )


def test_taught(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_taught(
        lambda scores, sharpness: (sharpness * scores).softmax(dim=0)
    )
    assert "ok: taught" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="Where does the sharpness go"):
        exercises.check_taught(lambda scores, sharpness: scores.softmax(dim=0))
    with pytest.raises(AssertionError, match="sum to 1"):
        exercises.check_taught(
            lambda scores, sharpness: (
                sharpness * (2 * sharpness * scores).softmax(dim=0) * 2
            )
        )
    with pytest.raises(AssertionError, match="overflow"):
        exercises.check_taught(
            lambda scores, sharpness: (
                (r := (sharpness * scores).exp()) / r.sum()
            )
        )


def interchangeable(tags: Tensor) -> list[tuple[int, int]]:
    count = tags.shape[1]
    return [
        (i, j)
        for i in range(count)
        for j in range(i + 1, count)
        if bool((tags[:, i] == tags[:, j]).all())
    ]


def test_interchangeable(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_interchangeable(interchangeable)
    assert "ok: interchangeable" in capsys.readouterr().out

    def equally_frequent(tags: Tensor) -> list[tuple[int, int]]:
        counts = tags.sum(dim=0).tolist()
        return [
            (i, j)
            for i in range(len(counts))
            for j in range(i + 1, len(counts))
            if counts[i] == counts[j]
        ]

    with pytest.raises(AssertionError, match="not in the same rooms"):
        exercises.check_interchangeable(equally_frequent)
    with pytest.raises(AssertionError, match="each pair once"):
        exercises.check_interchangeable(
            lambda tags: [
                p for i, j in interchangeable(tags) for p in ((i, j), (j, i))
            ]
        )
    with pytest.raises(AssertionError, match="itself"):
        exercises.check_interchangeable(
            lambda tags: [*interchangeable(tags), (0, 0)]
        )


def centred_labels(rooms: list[Tensor]) -> list[Tensor]:
    middle = torch.stack([room.mean(dim=0) for room in rooms]).mean(dim=0)
    return [(room - middle).argmax(dim=1) for room in rooms]


def test_centred_labels(capsys: pytest.CaptureFixture[str]) -> None:
    exercises.check_centred_labels(centred_labels)
    assert "ok: centred_labels" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="not within one"):
        exercises.check_centred_labels(
            lambda rooms: [
                (room - room.mean(dim=0)).argmax(dim=1) for room in rooms
            ]
        )
    with pytest.raises(AssertionError, match="however many points"):
        exercises.check_centred_labels(
            lambda rooms: [
                (room - torch.cat(list(rooms)).mean(dim=0)).argmax(dim=1)
                for room in rooms
            ]
        )
    with pytest.raises(AssertionError, match="not within one"):
        exercises.check_centred_labels(
            lambda rooms: [room.argmax(dim=1) for room in rooms]
        )
    with pytest.raises(AssertionError, match="work on a copy"):
        exercises.check_centred_labels(
            lambda rooms: [
                room.sub_(
                    torch.stack([r.mean(0) for r in rooms]).mean(0)
                ).argmax(1)
                for room in rooms
            ]
        )
