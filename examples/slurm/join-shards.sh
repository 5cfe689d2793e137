#!/bin/bash
# Makes the run of all shards: needs neither models nor data, and little time.
#SBATCH --job-name=midblock-join
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=01:00:00
set -euo pipefail

shards=()
for k in $(seq "$SHARDS"); do
    shards+=("$RUN/shard-$k")
done
midblock report --threads "$SLURM_CPUS_PER_TASK" --join "${shards[@]}" --out "$RUN/joined"
