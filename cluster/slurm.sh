#!/usr/bin/env bash
# One job over a Slurm allocation. Pre-empted or out of time, it keeps its points and has itself started again:
#
#   sbatch cluster/slurm.sh jobs/paper/cifar10-small-srs-3a.yaml --output /shared/runs/small-srs-3a
#
# from the repository, on a file system that all nodes see, after `make setup`. What follows the script's name goes to
# `srs-ray certify`. Change first: nodes, GPUs and CPUs per node, and the partition or account that your site asks for.
#SBATCH --job-name=srs-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --output=srs-ray-%j.log
#SBATCH --open-mode=append
# `ray symmetric-run` ends with `ray stop`, which would stop every Ray of yours on a shared node.
#SBATCH --exclusive
# Two minutes before its end this script, and nothing else, gets SIGTERM.
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
set -uo pipefail

(($# > 0)) || { echo "usage: sbatch cluster/slurm.sh JOB [OPTIONS of srs-ray certify]" >&2; exit 2; }
export PATH="$PWD/.venv/bin:$PATH"

# Ray lets whoever reaches its ports run code, unless it asks for a token: a new one, which the nodes get from here.
RAY_AUTH_TOKEN=$(od -An -v -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
export RAY_TMPDIR="/tmp/ray-$SLURM_JOB_ID" RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600
rm -rf "$RAY_TMPDIR" && mkdir -m 700 "$RAY_TMPDIR" || exit 1
driver="$RAY_TMPDIR/driver"  # holds the driver's process id; it runs on this node, the first of the allocation

# Slurm's signal is for the driver alone: Ray must go on until the driver has written what is finished.
asked=
stop() {
    asked=1 again=1
    kill -TERM "$(cat "$driver")" || kill -TERM $!
} 2> /dev/null
trap stop TERM

srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    ray symmetric-run --min-nodes="$SLURM_JOB_NUM_NODES" --include-dashboard=false \
    --address="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):$((20000 + SLURM_JOB_ID % 10000))" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" -- \
    bash -c 'echo $$ > "$0" && exec srs-ray certify "$@"' "$driver" "$@" &

again=1
while [[ $again ]]; do  # a signal ends the wait, not the run
    again=
    wait $!
    code=$?
done

[[ -e $driver ]] || { echo "the job was not started: see above what Ray says" >&2; code=1; }
rm -rf "$RAY_TMPDIR"
if [[ $asked ]] && ((code != 0)); then
    scontrol requeue "$SLURM_JOB_ID"
    code=143
fi
exit "$code"
