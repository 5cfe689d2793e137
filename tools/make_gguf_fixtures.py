"""Writes fixtures/gguf: what GGUF files must read as, according to the `gguf` Python package.

    python tools/make_gguf_fixtures.py        # needs numpy, gguf

`KIND.blocks` and `KIND.f32` are 2048 quantised elements and their dequantised values (little endian, no header).
Every file is a function of the seeds below; running the script again changes nothing.
"""

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Kind
from gguf.quants import dequantize

OUT = Path(__file__).resolve().parent.parent / "fixtures" / "gguf"
ELEMENTS = 2048
# Byte offsets of the f16 fields in a block; all other bytes may have any value.
HALVES = {
    Kind.Q4_0: [0],
    Kind.Q4_1: [0, 2],
    Kind.Q5_0: [0],
    Kind.Q5_1: [0, 2],
    Kind.Q8_0: [0],
    Kind.Q4_K: [0, 2],
    Kind.Q5_K: [0, 2],
    Kind.Q6_K: [208],
}
# Scales that random ones miss: both zeros, subnormals, the smallest normal, the largest finite half.
CORNERS = np.array([0.0, -0.0, 2.0**-24, -(2.0**-24), 1023 * 2.0**-24, 2.0**-14, 65504.0, -65504.0], np.float16)


def write_blocks():
    for kind, offsets in HALVES.items():
        rng = np.random.default_rng(kind.value)
        length, size = GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (ELEMENTS // length, size), np.uint8)
        for offset in offsets:
            scales = rng.normal(0, 0.05, len(blocks)).astype(np.float16)
            corners = rng.permutation(CORNERS)[: len(blocks) // 2]
            scales[rng.permutation(len(blocks))[: len(corners)]] = corners
            blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(-1, 2)
        name = kind.name.lower()
        blocks.tofile(OUT / f"{name}.blocks")
        dequantize(blocks, kind).astype("<f4").tofile(OUT / f"{name}.f32")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    write_blocks()
