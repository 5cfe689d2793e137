"""Writes fixtures/gguf: what GGUF files must read as, according to the `gguf` and `tokenizers` Python packages.

    python tools/make_gguf_fixtures.py        # needs numpy, gguf, safetensors, tokenizers

- `KIND.blocks`, `KIND.f32`: 2048 quantised elements and their dequantised values (little endian, no header).
- `source.f32`, `KIND.quantized`: 2048 numbers, and the blocks that they are quantised to.
- `tiny-llama.gguf`: a complete model of two blocks in mixed formats, query and key rows interleaved as llama.cpp's
  converter does; `tiny-llama.safetensors`: the same weights, dequantised, under Hugging Face names and row order.
- `tiny-llama.tokens.json`: texts and the ids of that file's vocabulary.

Every file is a function of the seeds below; running the script again changes nothing.
"""

import json
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Kind, GGUFWriter, TokenType
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

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


def source():
    """Blocks of 32: the first 16 are those that a rule may get wrong."""
    rng = np.random.default_rng(1)
    blocks = rng.normal(0, 1, (ELEMENTS // 32, 32)) * 2.0 ** rng.integers(-12, 6, (ELEMENTS // 32, 1))
    blocks[0] = 0
    blocks[1] = -0.75  # constant
    blocks[2] = 0.75
    blocks[3], blocks[3, 5] = 0, -1  # lonely
    blocks[4], blocks[4, 31] = 0, 1
    blocks[5] = np.where(np.arange(32) % 2, 1, -1)  # two of the largest magnitude
    blocks[6] = -blocks[5]
    blocks[7] = np.arange(32) - 16  # ties of q4_0 between two integers
    blocks[8] = np.arange(32) - 15
    blocks[9] = (np.arange(32) - 16) / 127 * 63.5  # ties of q8_0
    blocks[9, 0] = 127 / 2
    blocks[10] = np.arange(32) / 2  # ties of q4_1
    blocks[11] = rng.normal(0, 2.0**-22, 32)  # scales that are subnormal halves
    blocks[12] = rng.normal(0, 2.0**-30, 32)  # scales that become 0
    blocks[13] = rng.uniform(-60000, 60000, 32)
    blocks[14] = rng.uniform(3, 4, 32)  # far from 0
    blocks[15] = rng.uniform(-4, -3, 32)
    return blocks.astype(np.float32)


def write_quantized():
    blocks = source()
    blocks.astype("<f4").tofile(OUT / "source.f32")
    for kind in [Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0]:
        quantize(blocks, kind).tofile(OUT / f"{kind.name.lower()}.quantized")


# D != H * E, K < H, V not a multiple of 8.
D, F, H, K, E, L = 32, 64, 4, 2, 16, 2
BLOCK = [
    ("attn_q", "self_attn.q_proj", (H * E, D), Kind.Q8_0),
    ("attn_k", "self_attn.k_proj", (K * E, D), Kind.F16),
    ("attn_v", "self_attn.v_proj", (K * E, D), Kind.F16),
    ("attn_output", "self_attn.o_proj", (D, H * E), Kind.Q4_1),
    ("ffn_gate", "mlp.gate_proj", (F, D), Kind.Q5_0),
    ("ffn_up", "mlp.up_proj", (F, D), Kind.BF16),
    ("ffn_down", "mlp.down_proj", (D, F), Kind.Q4_0),
    ("attn_norm", "input_layernorm", (D,), Kind.F32),
    ("ffn_norm", "post_attention_layernorm", (D,), Kind.F32),
]
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<tool call>"]
MERGES = (
    "Ġ t|h e|i n|Ġ a|Ġt he|1 2|12 3|Ġ 1|Ċ Ċ|Ġ Ġ|ĠĠ ĠĠ|o n|r e|Ġ s|' s|l l|e ll|H ell|Hell o|Ġ w|Ġw o|Ġwo r|l d|Ġwor ld|Ã ©|Ġs on"
).split("|")
TEXTS = [
    "Hello world",
    "the 123 in12 3\n\n12",
    "Hello  world    1 \n \n  a's\ttheir",
    "café ½ ٣ 漢字 🙂 don't",
    "<|im_start|>user\nHello<|im_end|>\n<tool call> the",
    " ",
    "",
]


def vocabulary():
    letters = [chr(c) for c in [*range(33, 127), *range(161, 173), *range(174, 256)]]
    letters += [chr(256 + n) for n in range(256 - len(letters))]
    merges = [tuple(merge.split(" ")) for merge in MERGES]
    tokens = CONTROL + letters + ["".join(merge) for merge in merges] + USER_DEFINED
    assert len(set(tokens)) == len(tokens)
    return tokens, merges


def write_tokens(tokens, merges):
    """Ids by the rule of SmolLM2's own tokenizer.json: single digits first, then GPT-2's splitting."""
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in USER_DEFINED])
    cases = [{"text": text, "ids": tokenizer.encode(text).ids} for text in TEXTS]
    for case in cases:
        assert tokenizer.decode(case["ids"], skip_special_tokens=False) == case["text"]
    (OUT / "tiny-llama.tokens.json").write_text(json.dumps(cases, indent=1) + "\n")


def interleave(rows, heads):
    """Row `s E/2 + j` of a head becomes its row `2 j + s`."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def write_model():
    rng = np.random.default_rng(0)
    tokens, merges = vocabulary()
    writer = GGUFWriter(OUT / "tiny-llama.gguf", "llama")
    writer.add_name("tiny")
    writer.add_block_count(L)
    writer.add_context_length(128)
    writer.add_embedding_length(D)
    writer.add_feed_forward_length(F)
    writer.add_head_count(H)
    writer.add_head_count_kv(K)
    writer.add_key_length(E)
    writer.add_value_length(E)
    writer.add_rope_dimension_count(E)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    types = [TokenType.CONTROL] * len(CONTROL) + [TokenType.NORMAL] * (len(tokens) - len(CONTROL) - len(USER_DEFINED))
    writer.add_token_types(types + [TokenType.USER_DEFINED] * len(USER_DEFINED))
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}")
    reference = {}

    def add(stored_name, name, shape, kind):
        values = rng.normal(1 if len(shape) == 1 else 0, 0.1, shape).astype(np.float32)
        stored = quantize(values, kind)
        reference[name] = dequantize(stored, kind).astype(np.float32).reshape(shape)
        heads = {"attn_q": H, "attn_k": K}.get(stored_name.split(".")[-2])
        stored = interleave(stored, heads) if heads else stored
        writer.add_tensor(stored_name, stored, raw_dtype=kind)

    add("token_embd.weight", "model.embed_tokens.weight", (len(tokens), D), Kind.Q8_0)
    for block in range(L):
        for stored_name, name, shape, kind in BLOCK:
            add(f"blk.{block}.{stored_name}.weight", f"model.layers.{block}.{name}.weight", shape, kind)
    add("output_norm.weight", "model.norm.weight", (D,), Kind.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(reference, OUT / "tiny-llama.safetensors")
    write_tokens(tokens, merges)


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    write_blocks()
    write_quantized()
    write_model()
