#!/usr/bin/env python3
"""Make the parity fixtures: tiny random checkpoints and what transformers computes with them.

    python tools/make_fixtures.py [NAME ...]        # default: all, into fixtures/

Needs torch, transformers, peft, safetensors and numpy (versions used are in each MANIFEST.json).

Every folder is written first and then loaded back with `from_pretrained`, so the expected values belong to the files as
they lie on disk, hand-written config.json included. Each model runs twice: in f32 as transformers does it, and in f64
throughout (see `double_precision`). The two must agree; the f64 run tells an implementation's own rounding from
transformers'. fixtures/README.md documents the layout.
"""

import contextlib
import hashlib
import json
import pathlib
import sys
import zlib

import numpy
import peft
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

ROOT = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
SEED = 2604
VOCAB = 131  # prime: no kernel's lanes fit
PAD = 0

# (padding side, real tokens of each row); a row is padded to the longest of its batch.
BATCHES = {"right": ("right", [13, 9, 1]), "left": ("left", [5, 11, 8])}

COMMON = dict(vocab_size=VOCAB, hidden_size=48, intermediate_size=76, num_hidden_layers=3, num_attention_heads=6,
              num_key_value_heads=2, hidden_act="silu", max_position_embeddings=256, rms_norm_eps=1e-3,
              tie_word_embeddings=False, pad_token_id=PAD, bos_token_id=1, eos_token_id=2)

LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=128)

# model_type, changes to COMMON, spelling of config.json, storage dtype, number of shards.
# "new": as this transformers writes it (rope_parameters, dtype, layer_types); "old": as most published checkpoints have it.
FAMILIES = {
    "llama-tied": dict(model_type="llama", spelling="new", tie_word_embeddings=True,
                       rope_parameters=dict(rope_type="default", rope_theta=500.0)),
    "llama-rope-llama3": dict(model_type="llama", spelling="old", shards=3, num_attention_heads=4, head_dim=16,
                              rope_theta=100.0, rope_scaling=LLAMA3),
    "llama-rope-linear": dict(model_type="llama", spelling="old", num_key_value_heads=1, rope_theta=1000.0,
                              rope_scaling=dict(type="linear", factor=2.5)),
    "llama-rope-yarn": dict(model_type="llama", spelling="new", num_attention_heads=3, num_key_value_heads=1,
                            max_position_embeddings=4096,
                            rope_parameters=dict(rope_type="yarn", rope_theta=100.0, factor=4.0,
                                                 original_max_position_embeddings=1024)),
    # No rope_theta at all, as in the first Llama's configurations: 10000 is implied.
    "llama-bias": dict(model_type="llama", spelling="old", dtype="float16", attention_bias=True, mlp_bias=True),
    "mistral": dict(model_type="mistral", spelling="old", dtype="bfloat16", sliding_window=5, rope_theta=1000.0),
    # Blocks 2 and 3 of four slide; nothing but max_window_layers says so.
    "qwen2": dict(model_type="qwen2", spelling="old", num_hidden_layers=4, intermediate_size=60, rope_theta=1000.0,
                  tie_word_embeddings=True, use_sliding_window=True, sliding_window=4, max_window_layers=2),
    # A window that must be ignored because use_sliding_window is false; H·E = 64 ≠ D.
    "qwen3": dict(model_type="qwen3", spelling="old", num_attention_heads=4, head_dim=16, rope_theta=1000.0,
                  attention_bias=False, use_sliding_window=False, sliding_window=4, max_window_layers=1),
    "qwen3-layer-types": dict(model_type="qwen3", spelling="new", num_attention_heads=4, head_dim=16, shards=2,
                              tie_word_embeddings=True, attention_bias=True, use_sliding_window=True, sliding_window=4,
                              max_window_layers=0,
                              layer_types=["full_attention", "sliding_attention", "full_attention"],
                              rope_parameters=dict(rope_type="default", rope_theta=1000.0)),
    "olmo2": dict(model_type="olmo2", spelling="new", dtype="bfloat16",
                  rope_parameters=dict(rope_type="default", rope_theta=1000.0)),
}


def write_config(folder, family):
    """config.json in the wanted spelling."""
    family = dict(family)
    spelling, dtype = family.pop("spelling"), family.pop("dtype", "float32")
    family.pop("shards", None)
    if spelling == "old":
        value = {"architectures": [architecture(family["model_type"])], **family, "torch_dtype": dtype}
        (folder / "config.json").write_text(json.dumps({**COMMON, **value}, indent=2, sort_keys=True) + "\n")
    else:
        model_type = family.pop("model_type")
        config = AutoConfig.for_model(model_type, **{**COMMON, **family})
        config.architectures, config.dtype = [architecture(model_type)], dtype
        config.save_pretrained(folder)
    return dtype


def architecture(model_type):
    return {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3",
            "olmo2": "Olmo2"}[model_type] + "ForCausalLM"


def random_weights(model, name):
    """Weights large enough that attention is far from uniform; norms and biases are as random as the rest."""
    weights = {}
    for key, parameter in sorted(model.named_parameters()):  # a tied head is listed once, as the embedding
        g = torch.Generator().manual_seed(zlib.crc32(f"{SEED}/{name}/{key}".encode()))
        noise = torch.randn(parameter.shape, generator=g)
        if "q_norm" in key or "k_norm" in key:
            weights[key] = 1.4 + 0.3 * noise  # unit queries and keys would attend almost uniformly
        elif "norm" in key:
            weights[key] = 1 + 0.3 * noise
        elif key.endswith("bias"):
            weights[key] = 0.3 * noise
        else:
            weights[key] = (0.3 if "embed" in key else 0.15) * noise
    return weights


def write_weights(folder, weights, dtype, shards):
    """model.safetensors, or shards with their index."""
    weights = {k: v.to(getattr(torch, dtype)).contiguous() for k, v in weights.items()}
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, weight_map = sorted(weights), {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = names[i::shards]  # interleaved: one block's tensors lie in several files
        save_file({k: weights[k] for k in part}, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    size = sum(v.numel() * v.element_size() for v in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


@contextlib.contextmanager
def double_precision():
    """transformers casts to f32 inside norms, softmax and RoPE; while this is active those casts go to f64."""
    saved = torch.float32, torch.float, torch.Tensor.float, torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = saved[:3]
        torch.set_default_dtype(saved[3])


def make_batch(name, key):
    """Token ids, attention mask, positions from 0 at the first real token, labels."""
    side, lengths = BATCHES[key]
    T = max(lengths)
    g = torch.Generator().manual_seed(zlib.crc32(f"{SEED}/{name}/ids/{key}".encode()))
    ids = torch.full((len(lengths), T), PAD)
    mask = torch.zeros(len(lengths), T, dtype=torch.int64)
    labels = torch.full((len(lengths), T), -100)
    for b, n in enumerate(lengths):
        start = 0 if side == "right" else T - n
        ids[b, start:start + n] = torch.randint(3, VOCAB, (n,), generator=g)
        mask[b, start:start + n] = 1
        # The first real token has no real token before it that could predict it: with left padding it must not count.
        labels[b, start + 1:start + n] = ids[b, start + 1:start + n]
    return dict(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), labels=labels)


def run(model, batch):
    """All hidden states before the final norm, its output, logits, losses; gradients stay in the parameters."""
    hidden, final_norm, hooks = [], [], []
    for layer in model.model.layers:
        hooks.append(layer.register_forward_pre_hook(lambda _, args: hidden.append(args[0])))
    hooks.append(model.model.layers[-1].register_forward_hook(lambda _, __, out: hidden.append(out)))
    hooks.append(model.model.norm.register_forward_hook(lambda _, __, out: final_norm.append(out)))
    model.zero_grad()
    out = model(**batch, use_cache=False, output_hidden_states=True)
    out.loss.backward()
    for hook in hooks:
        hook.remove()

    assert torch.equal(out.hidden_states[-1], final_norm[0]), "the last hidden state is after the final norm"
    assert all(torch.equal(a, b) for a, b in zip(out.hidden_states[:-1], hidden[:-1]))
    logits, labels = out.logits[:, :-1], batch["labels"][:, 1:]
    token_loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none",
                                                   ignore_index=-100).view(labels.shape)
    torch.testing.assert_close(token_loss.sum() / (labels != -100).sum(), out.loss)
    result = dict(hidden=torch.stack(hidden), final_norm=final_norm[0], hf_hidden_last=out.hidden_states[-1],
                  logits=out.logits, token_loss=token_loss, loss=out.loss)
    return {k: v.detach().clone() for k, v in result.items()}


def load(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    assert model.config._attn_implementation == "eager"
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    return model


def expected(folder, name):
    """Everything in expected.safetensors, and the largest difference between the f32 and the f64 run."""
    tensors, worst = {}, 0.0
    single = load(folder)
    with double_precision():
        double = AutoModelForCausalLM.from_config(single.config, dtype=torch.float64, attn_implementation="eager")
    double.eval().load_state_dict(single.state_dict())
    assert {t.dtype for t in (*double.parameters(), double.model.rotary_emb.inv_freq)} == {torch.float64}
    for key in BATCHES:
        batch = make_batch(name, key)
        tensors.update({f"{key}.{k}": v for k, v in batch.items()})
        with double_precision():
            exact = run(double, batch)
        real = batch["attention_mask"].bool()
        for k, value in run(single, batch).items():
            tensors[f"{key}.{k}"] = value
            if k == "hf_hidden_last":
                continue
            tensors[f"{key}.f64.{k}"] = exact[k].to(torch.float32)
            a, b = value.double(), exact[k]
            if k not in ("loss", "token_loss"):  # padding rows are nobody's business
                a, b = (x[:, real] if k == "hidden" else x[real] for x in (a, b))
            worst = max(worst, ((a - b).abs() / b.abs().clamp(min=1)).max().item())
        if key == "right":
            for (parameter, p), (_, q) in zip(double.named_parameters(), single.named_parameters()):
                torch.testing.assert_close(q.grad.double(), p.grad, rtol=1e-3, atol=1e-5)
                tensors[f"grad.{parameter}"] = p.grad.to(torch.float32)
    assert worst < 2e-5, f"{name}: f32 and f64 runs differ by {worst}"
    tensors.update(training(double, make_batch(name, "right")))
    return {k: v.contiguous() for k, v in tensors.items()}, worst


def training(double, batch):
    """Ten AdamW steps of the f64 model on one batch, and LoRA gradients and ten steps on top of the original weights."""
    tensors = {}
    original = {k: v.clone() for k, v in double.state_dict().items()}
    matrices = [p for p in double.parameters() if p.dim() > 1]
    vectors = [p for p in double.parameters() if p.dim() == 1]
    tensors["adamw.losses"] = ten_steps(double, batch, [matrices, vectors])
    for name, p in double.named_parameters():
        tensors[f"adamw.{name}"] = p.detach().float()
    double.load_state_dict(original)

    middle = double.config.num_hidden_layers // 2
    config = peft.LoraConfig(r=3, lora_alpha=6, lora_dropout=0.0, task_type="CAUSAL_LM", layers_to_transform=[middle],
                             target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    with double_precision():
        model = peft.get_peft_model(double, config, autocast_adapter_dtype=False).double().eval()
    adapters = {k: p for k, p in model.named_parameters() if p.requires_grad}
    for key, p in adapters.items():  # a B of zeros would hide errors in A's gradient
        g = torch.Generator().manual_seed(zlib.crc32(f"{SEED}/lora/{key}".encode()))
        p.data = (0.2 * torch.randn(p.shape, generator=g)).double()
    tidy = {k: k.removeprefix("base_model.model.").replace(".default", "") for k in adapters}
    tensors.update({f"lora.start.{tidy[k]}": p.detach().float().clone() for k, p in adapters.items()})
    with double_precision():
        out = model(**batch, use_cache=False)
    out.loss.backward()
    tensors["lora.loss"] = out.loss.detach().float()
    tensors.update({f"lora.grad.{tidy[k]}": p.grad.float().clone() for k, p in adapters.items()})
    tensors["lora.losses"] = ten_steps(model, batch, [list(adapters.values()), []])
    tensors.update({f"lora.adamw.{tidy[k]}": p.detach().float() for k, p in adapters.items()})
    return tensors


def ten_steps(model, batch, groups):
    """Losses before each of ten AdamW steps; weight decay on matrices only."""
    matrices, vectors = groups
    groups = [dict(params=matrices, weight_decay=0.1), dict(params=vectors, weight_decay=0.0)]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=2e-3, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        with double_precision():
            loss = model(**batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01
    return torch.tensor(losses, dtype=torch.float32)


def check_visible(folder, tensors):
    """A fixture that cannot fail is worthless: the things under test must change the result."""
    model = load(folder)
    family = FAMILIES[folder.name]
    rope = family.get("rope_parameters") or {"rope_theta": family.get("rope_theta", 1e4), **family.get("rope_scaling", {})}
    head_dim = model.config.head_dim if hasattr(model.config, "head_dim") else 48 // model.config.num_attention_heads
    plain = rope["rope_theta"] ** -(torch.arange(0, head_dim, 2) / head_dim)
    scaled = rope.get("rope_type", rope.get("type", "default")) != "default"
    assert torch.allclose(model.model.rotary_emb.inv_freq, plain, rtol=1e-5) != scaled, f"{folder.name}: RoPE frequencies"
    attentions = model(tensors["right.input_ids"][:1], output_attentions=True).attentions
    for l, a in enumerate(attentions):  # (1, H, T, T)
        row = a[0, :, -1]
        entropy = -(row * row.clamp(min=1e-30).log()).sum(-1).mean().item()
        seen = (row > 0).sum(-1).max().item()
        assert entropy < 0.9 * numpy.log(seen), f"{folder.name}: block {l} attends almost uniformly"
        slides = seen < row.shape[-1]
        wanted = dict(mistral=True, qwen2=l >= 2).get(folder.name, folder.name == "qwen3-layer-types" and l == 1)
        assert slides == wanted, f"{folder.name}: block {l} sees {seen} of {row.shape[-1]} positions"
        if slides:
            assert seen == family["sliding_window"]


def make(name):
    family, folder = dict(FAMILIES[name]), ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    dtype = write_config(folder, family)
    skeleton = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    write_weights(folder, random_weights(skeleton, name), dtype, family.get("shards", 1))
    tensors, worst = expected(folder, name)
    check_visible(folder, tensors)
    save_file(tensors, folder / "expected.safetensors")
    manifest = dict(script="tools/make_fixtures.py",
                    script_sha256=hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest(), seed=SEED,
                    torch=torch.__version__, peft=peft.__version__, transformers=transformers.__version__, numpy=numpy.__version__,
                    f32_against_f64=float(f"{worst:.2e}"))
    (folder / "MANIFEST.json").write_text(json.dumps(manifest, indent=2) + "\n")
    size = sum(f.stat().st_size for f in folder.iterdir())
    assert size < 2 << 20
    print(f"{name:20} {size / 1024:7.0f} KiB, f32 against f64 {worst:.1e}, |h_L| ≤ "
          f"{tensors['right.hidden'][-1].abs().max():.1f}, loss {tensors['right.loss']:.3f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for wanted in sys.argv[1:] or FAMILIES:
        make(wanted)
