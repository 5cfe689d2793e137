#!/bin/bash
# Fine-tuning whose steps are shared by eight processes on two nodes. The program must be built with MPI.
#
#   sbatch examples/slurm/tune-mpi.sh configs/paper/olmo2-7b-mid.toml runs/olmo2-mid
#
# `srun --mpi=list` says how Slurm can start MPI's processes; PMIx is what Debian's Open MPI is built with. MPI=pmi2 is another way.
#SBATCH --job-name=midblock-tune-mpi
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --open-mode=append
set -euo pipefail
config=$1 out=$2

# frozen states that are kept for later epochs go to the node's own disk
export TMPDIR=${SLURM_TMPDIR:-/tmp}
srun --mpi="${MPI:-pmix}" --cpus-per-task="$SLURM_CPUS_PER_TASK" midblock tune --quiet --offline --threads "$SLURM_CPUS_PER_TASK" \
    --config "$config" --out "$out" --resume
