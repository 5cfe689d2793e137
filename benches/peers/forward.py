#!/usr/bin/env python3
"""transformers' forward of the SmolLM2-135M shape, 4 × 128 tokens, all hidden states, f32: the peer of `midblock bench`.

    python benches/peers/forward.py [--model FOLDER] [--threads 2] [--warmup 2] [--steps 7]

Random weights unless a folder is given (then the checksum means something to others). Prints one JSON line; a run counts
only if cpu_utilisation is close to the number of threads, that is, on a quiet machine.
"""

import argparse
import json
import os
import resource
import statistics
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--warmup", type=int, default=2)
parser.add_argument("--steps", type=int, default=7)
args = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(args.threads)  # before torch is imported

import torch  # noqa: E402
import transformers  # noqa: E402

torch.set_num_threads(args.threads)
torch.manual_seed(0)
B, T = 4, 128
if args.model:
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
else:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0}))
model = model.model.eval()  # hidden states only: no head
# Ids anybody can make: no random generator shared between languages.
ids = torch.arange(B * T).mul(7919).add(17).remainder(49152).view(B, T)

times, busy = [], []
with torch.inference_mode():
    for _ in range(args.warmup + args.steps):
        cpu, start = time.process_time(), time.perf_counter()
        states = model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
        times.append(time.perf_counter() - start)
        busy.append((time.process_time() - cpu) / times[-1])
times, busy = times[args.warmup:], busy[args.warmup:]
assert len(states) == 31
median = statistics.median(times)
print(json.dumps(dict(
    peer=f"torch {torch.__version__}, transformers {transformers.__version__}", model=args.model or "random weights",
    shape="SmolLM2-135M", batch=B, positions=T, dtype="f32", threads=args.threads,
    median_tokens_per_s=round(B * T / median, 1), min_tokens_per_s=round(B * T / max(times), 1),
    max_tokens_per_s=round(B * T / min(times), 1), seconds=[round(t, 3) for t in times],
    peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    cpu_utilisation=round(statistics.median(busy), 2),
    # of h_{L-1}: the last entry is after the final norm
    checksum_mean_abs=round(states[-2].double().abs().mean().item(), 8))))
