#!/usr/bin/env bash
# Makes the model inside of midblock again, from nothing: text, base, variant. About ten minutes on two cores.
#
#   cargo build --release && tools/make_quickstart.sh
#
# One version of the program gives the same weights again on the same processor; another may round differently.
set -euo pipefail
cd "$(dirname "$0")/.."
midblock=${MIDBLOCK:-target/release/midblock}
work=runs/quickstart
assets=crates/midblock-cli/assets/quickstart
mkdir -p "$work"

"$midblock" corpus --kind text --rows 80000 --seed 17 --out "$work/text.jsonl"
"$midblock" corpus --kind problems --rows 20000 --seed 17 --out "$work/problems.jsonl"
"$midblock" corpus --kind problems --rows 100 --seed 17 --held-out --out "$assets/data.jsonl"

"$midblock" pretrain --config configs/quickstart/base.toml --out "$work/base" --overwrite
rm -rf "$assets/base" && cp -r "$work/base/model" "$assets/base"

"$midblock" tune --config configs/quickstart/sft.toml --out "$work/sft" --overwrite
rm -rf "$assets/sft" && cp -r "$work/sft/model" "$assets/sft"
