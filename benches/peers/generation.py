#!/usr/bin/env python3
"""Greedy writing by transformers (f32) or llama.cpp: the peers of `midblock bench --generate`.

    python benches/peers/generation.py --model HF_FOLDER|GGUF [--batch 1] [--length 128] [--new 64] [--rounds 3]

Prompts of random tokens, all of one length, so that the peer pads nothing; end tokens do not end anything. A GGUF file is
run by llama-cpp-python, whose Python interface writes one sequence at a time (--batch 1). Prints one JSON line; a run counts
only if cpu_utilisation is close to the number of threads.
"""

import argparse
import json
import os
import statistics
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True)
parser.add_argument("--batch", type=int, default=1)
parser.add_argument("--length", type=int, default=128)
parser.add_argument("--new", type=int, default=64)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(args.threads)  # before torch is imported
B, T, N = args.batch, args.length, args.new
ids = [[(7919 * (b * T + t) + 17) % 49152 for t in range(T)] for b in range(B)]


def transformers_writer():
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    inputs = dict(input_ids=torch.tensor(ids), attention_mask=torch.ones(B, T, dtype=torch.long))

    def write(new):
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=2)
        assert out.shape == (B, T + new)

    return write, f"torch {torch.__version__}, transformers {transformers.__version__}, f32"


def llama_writer():
    import llama_cpp

    assert B == 1, "llama-cpp-python writes one sequence at a time"
    model = llama_cpp.Llama(args.model, n_ctx=T + N, n_threads=args.threads, n_threads_batch=args.threads, verbose=False)

    def write(new):
        model.reset()
        written = model.generate(ids[0], temp=0.0, reset=True)
        for _ in range(new):
            next(written)

    return write, f"llama-cpp-python {llama_cpp.__version__}, as stored"


write, peer = llama_writer() if args.model.endswith(".gguf") else transformers_writer()
write(N)
prompts, wholes, busy = [], [], []
for _ in range(args.rounds):
    start = time.perf_counter()
    write(1)
    prompts.append(time.perf_counter() - start)
    cpu, start = time.process_time(), time.perf_counter()
    write(N)
    wholes.append(time.perf_counter() - start)
    busy.append((time.process_time() - cpu) / wholes[-1])
prompt, whole = statistics.median(prompts), statistics.median(wholes)
step = (whole - prompt) / (N - 1)
print(json.dumps(dict(
    peer=peer, model=args.model, threads=args.threads, batch=B, prompt_tokens=T, new_tokens=N,
    prompt_tokens_per_s=round(B * T / prompt, 1), decode_tokens_per_s=round(B / step, 1),
    whole_tokens_per_s=round(B * N / whole, 1), step_s=round(step, 4), cpu_utilisation=round(statistics.median(busy), 2))))
