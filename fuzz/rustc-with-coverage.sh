#!/usr/bin/env bash
# A RUSTC_WRAPPER that instruments midblock alone, so that its fuzz targets build on stable Rust without cargo-fuzz:
#
#   cd fuzz && RUSTC_WRAPPER=$PWD/rustc-with-coverage.sh cargo build
#   mkdir -p corpus/gguf && target/debug/gguf corpus/gguf ../fixtures/gguf -max_total_time=180
rustc=$1
shift
case " $* " in
*" --crate-name midblock "* | *" --crate-name midblock_kernels "*)
    exec "$rustc" "$@" --cfg fuzzing -Copt-level=2 -Ccodegen-units=1 -Cpasses=sancov-module \
        -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-trace-compares \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    ;;
*) exec "$rustc" "$@" ;;
esac
