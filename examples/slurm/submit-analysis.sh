#!/bin/bash
# An analysis by a job array, and the job that joins its shards once all of them are there.
#
#   BASE=/models/olmo2 VARIANT=sft=/models/olmo2-sft DATA=gsm8k=/data/gsm8k.jsonl RUN=$PWD/runs/olmo2 SHARDS=16 \
#       examples/slurm/submit-analysis.sh
#
# Started again it does what is left: a finished shard is found and takes no time.
set -euo pipefail
: "${BASE:?the model before fine-tuning}" "${VARIANT:?NAME=CHECKPOINT}" "${DATA:?NAME=FILE}" "${RUN:?folder of the run}"
export BASE VARIANT DATA RUN SHARDS="${SHARDS:-16}"
here=$(dirname "$0")
mkdir -p "$RUN"
array=$(sbatch --parsable --array="1-$SHARDS" --output="$RUN/shard-%a.log" "$here/analyze-shard.sh")
sbatch --dependency="afterok:$array" --kill-on-invalid-dep=yes --output="$RUN/join.log" "$here/join-shards.sh"
