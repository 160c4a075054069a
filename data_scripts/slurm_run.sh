#!/bin/bash
# The whole method on several machines of a SLURM cluster, four GPUs each:
#
#     sbatch data_scripts/slurm_run.sh                                   the book's rooms, profile full
#     SCENES=/data/scannet PROFILE=paper-scannet sbatch --nodes 4 data_scripts/slurm_run.sh
#
# Change the lines below to what your cluster has. VLG_CACHE has to be a folder that all machines see. A job that was
# stopped, or ran out of time, continues: submit it again.
#SBATCH --job-name=vlg
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=vlg-%j.log
set -euo pipefail

export VLG_CACHE="${VLG_CACHE:-$SLURM_SUBMIT_DIR/vlg_cache}"
export OUT="${OUT:-$SLURM_SUBMIT_DIR/results-run}" PROFILE="${PROFILE:-full}" SCENES="${SCENES:-}"
export PRECISION="${PRECISION:-fp16}"  # bf16 from the A100 on; a T4 and a V100 have none
export GPUS="${SLURM_GPUS_ON_NODE:?expected GPUs: keep a --gpus-per-node line}"
MACHINES="$(scontrol show hostnames "$SLURM_JOB_NODELIST")"
MASTER="${MACHINES%%$'\n'*}"  # the first line; a pipe into head would end scontrol with a signal, and with it the job
export MASTER PORT=$((20000 + SLURM_JOB_ID % 20000))  # two jobs on one machine must not share a port

# One launcher a machine (srun), one process a GPU (accelerate). When one of them fails, all of them end.
srun --kill-on-bad-exit=1 bash -c '
    if [ -n "$SCENES" ]; then set -- --source layout --scenes "$SCENES"; else set -- --source rooms; fi
    exec accelerate launch --multi_gpu --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" \
        --num_processes $((SLURM_NNODES * GPUS)) --main_process_ip "$MASTER" --main_process_port "$PORT" \
        --mixed_precision "$PRECISION" --dynamo_backend no \
        -m vlg_lib run "$@" --profile "$PROFILE" --out "$OUT" --quiet'
