#!/usr/bin/env python3
"""Optimiser steps of the SmolLM2-135M shape with transformers and PEFT, f32: the peer of `midblock bench --train`.

    python benches/peers/training.py lora|mid|full [--threads 2] [--warmup 2] [--steps 7]

4 × 128 tokens, all of them in the loss. `lora`: rank 8 on q, k, v, o of every block; `mid`: rank 13 on blocks 6..24, the
same budget; `full`: every parameter. Fused AdamW. Random weights. Prints one JSON line; a run counts only if
cpu_utilisation is close to the number of threads, that is, on a quiet machine.
"""

import argparse
import json
import os
import resource
import statistics
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("kind", choices=["lora", "mid", "full"])
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--warmup", type=int, default=2)
parser.add_argument("--steps", type=int, default=7)
args = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(args.threads)  # before torch is imported

import torch  # noqa: E402
import transformers  # noqa: E402

torch.set_num_threads(args.threads)
torch.manual_seed(0)
B, T, V = 4, 128, 49152
model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
    vocab_size=V, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5, tie_word_embeddings=True, use_cache=False,
    rope_parameters={"rope_type": "default", "rope_theta": 100000.0}))
assert model.config._attn_implementation == "sdpa"
if args.kind != "full":
    from peft import LoraConfig, get_peft_model
    where = dict(r=8) if args.kind == "lora" else dict(r=13, layers_to_transform=list(range(6, 24)))
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", lora_alpha=16, lora_dropout=0.0, bias="none",
                                             target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], **where))
model.train()
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
ids = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(1))

times, busy, losses = [], [], []
for _ in range(args.warmup + args.steps):
    cpu, start = time.process_time(), time.perf_counter()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    losses.append(loss.item())
    times.append(time.perf_counter() - start)
    busy.append((time.process_time() - cpu) / times[-1])
times, busy = times[args.warmup:], busy[args.warmup:]
median = statistics.median(times)
print(json.dumps(dict(
    peer=f"torch {torch.__version__}, transformers {transformers.__version__}", kind=args.kind, threads=args.threads,
    trained_parameters=sum(p.numel() for p in trained), median_tokens_per_s=round(B * T / median, 1),
    min_tokens_per_s=round(B * T / max(times), 1), max_tokens_per_s=round(B * T / min(times), 1),
    peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    cpu_utilisation=round(statistics.median(busy), 2), losses=[round(v, 5) for v in losses])))
