#!/usr/bin/env python3
"""Dequantise a GGUF file of the llama architecture into an f32 Hugging Face folder, for parity and bench peers only.

    python tools/gguf_to_hf.py MODEL.gguf OUT_FOLDER

transformers' own conversion drops the individual-digits split of `tokenizer.ggml.pre = smollm`; this one keeps it.
Needs gguf, safetensors, tokenizers, numpy.
"""

import json
import pathlib
import sys

import gguf
import numpy
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
         "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
CONTROL = 3  # token type


def hf_name(name):
    if name.startswith("blk."):
        _, block, part, kind = name.split(".")
        return f"model.layers.{block}.{NAMES[part]}.{kind}"
    return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
            "output.weight": "lm_head.weight"}[name]


def to_half_split(weight, heads):
    """GGUF's llama stores a head's rows as rotated pairs (0, 1), (2, 3), …; Hugging Face as (0, E/2), (1, E/2 + 1), …"""
    out, width = weight.shape
    return weight.reshape(heads, out // heads // 2, 2, width).swapaxes(1, 2).reshape(out, width)


def main(source, out):
    reader = gguf.GGUFReader(source)
    field = {key: f.contents() for key, f in reader.fields.items()}
    assert field["general.architecture"] == "llama" and field["tokenizer.ggml.pre"] == "smollm", "only SmolLM files"
    heads, kv_heads = field["llama.attention.head_count"], field["llama.attention.head_count_kv"]

    weights = {}
    for tensor in reader.tensors:
        value = gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32).reshape(tensor.shape[::-1])
        name = hf_name(tensor.name)
        if name.endswith("q_proj.weight"):
            value = to_half_split(value, heads)
        elif name.endswith("k_proj.weight"):
            value = to_half_split(value, kv_heads)
        weights[name] = numpy.ascontiguousarray(value)

    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    config = dict(
        architectures=["LlamaForCausalLM"], model_type="llama", torch_dtype="float32", hidden_act="silu",
        hidden_size=field["llama.embedding_length"], intermediate_size=field["llama.feed_forward_length"],
        num_hidden_layers=field["llama.block_count"], num_attention_heads=heads, num_key_value_heads=kv_heads,
        max_position_embeddings=field["llama.context_length"], rope_theta=field["llama.rope.freq_base"],
        rms_norm_eps=field["llama.attention.layer_norm_rms_epsilon"], vocab_size=field["llama.vocab_size"],
        tie_word_embeddings="lm_head.weight" not in weights, attention_bias=False, mlp_bias=False,
        bos_token_id=field["tokenizer.ggml.bos_token_id"], eos_token_id=field["tokenizer.ggml.eos_token_id"],
        pad_token_id=field["tokenizer.ggml.padding_token_id"])
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    tokens = field["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in field["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    types = field["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, types) if kind == CONTROL])
    tokenizer.save(str(out / "tokenizer.json"))
    special = {f"{kind}_token": tokens[config[f"{kind}_token_id"]] for kind in ("bos", "eos", "pad")}
    (out / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", **special, "chat_template": field["tokenizer.chat_template"]},
        indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
