"""The SLURM job script with stand-ins for SLURM's commands: what it would start
on each machine."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "data_scripts" / "slurm_run.sh"
COMMANDS = {
    # It writes slowly: a reader that is satisfied with the first line would end
    # it by a signal.
    "scontrol": "echo node7\nsleep 0.2\necho node8",
    # srun runs the command once a machine, as --ntasks-per-node=1 asks for.
    "srun": (
        'test "$1" = --kill-on-bad-exit=1 && shift\nfor node in 0 1; do'
        ' SLURM_NODEID=$node "$@" || exit $?; done'
    ),
    "accelerate": 'echo "$@"\nexit ${FAILS:-0}',
}


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    for name, lines in COMMANDS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_SUBMIT_DIR": "/home/me/my book",
    }


def start(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_launcher_on_each_machine_starts_its_share_of_all_processes(
    cluster,
) -> None:
    result = start(cluster)
    assert result.returncode == 0, result.stderr
    for rank, line in enumerate(result.stdout.splitlines()):
        assert (
            f"--num_machines 2 --machine_rank {rank} --num_processes 8"
            " --main_process_ip node7" in line
        )
        assert "--main_process_port 23456 --mixed_precision fp16" in line
        assert line.endswith(
            "-m vlg_lib run --source rooms --profile full --out /home/me/my"
            " book/results-run --quiet"
        )
    assert len(result.stdout.splitlines()) == 2


def test_scenes_and_profile_are_those_of_the_command(cluster) -> None:
    result = start(
        cluster
        | {
            "SCENES": "/data/my scans",
            "PROFILE": "paper-scannet",
            "PRECISION": "bf16",
        }
    )
    assert (
        "--source layout --scenes /data/my scans --profile paper-scannet"
        in result.stdout
    )
    assert "--mixed_precision bf16" in result.stdout


def test_a_run_that_fails_fails_the_job(cluster) -> None:
    assert start(cluster | {"FAILS": "3"}).returncode == 3


def test_without_gpus_it_says_what_is_missing(cluster) -> None:
    del cluster["SLURM_GPUS_ON_NODE"]
    result = start(cluster)
    assert result.returncode != 0
    assert "expected GPUs: keep a --gpus-per-node line" in result.stderr
