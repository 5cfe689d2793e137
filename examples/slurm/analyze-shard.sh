#!/bin/bash
# One shard of an analysis; submit-analysis.sh submits it as an array.
#SBATCH --job-name=midblock-shard
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# how many shards there are is told, not SLURM_ARRAY_TASK_COUNT: that is smaller when only some are submitted again
k=$SLURM_ARRAY_TASK_ID
midblock analyze --offline --threads "$SLURM_CPUS_PER_TASK" \
    --base "$BASE" --variant "$VARIANT" --data "$DATA" --samples 5000 \
    --shard "$k/$SHARDS" --out "$RUN/shard-$k"
