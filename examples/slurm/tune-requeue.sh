#!/bin/bash
# Fine-tuning that outlives preemption and the time limit: it is saved, queued again and goes on to the bits of an uninterrupted run.
#
#   sbatch examples/slurm/tune-requeue.sh configs/paper/olmo2-7b-mid.toml runs/olmo2-mid
#SBATCH --job-name=midblock-tune
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@300
#SBATCH --open-mode=append
set -euo pipefail
config=$1 out=$2

# With --resume the first job begins and every later one goes on. SIGTERM, 300 s before the limit or at preemption, saves the run: exit
# status 130. A node that is lost without a word costs the steps since the last checkpoint, and Slurm queues the job again itself.
export TMPDIR=${SLURM_TMPDIR:-/tmp}
status=0
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" midblock tune --quiet --offline --threads "$SLURM_CPUS_PER_TASK" \
    --config "$config" --out "$out" --set train.save_every=50 --resume || status=$?
case $status in
    130) scontrol requeue "$SLURM_JOB_ID" ;;
    *) exit "$status" ;;
esac
