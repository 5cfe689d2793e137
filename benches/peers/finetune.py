#!/usr/bin/env python3
"""The run that `midblock tune` made, again with transformers and PEFT: the same samples in the same order, the same
initial adapter, the same schedule.

    python benches/peers/finetune.py MODEL_FOLDER RUN_FOLDER data.jsonl --init ADAPTER [--steps 20]
    python benches/peers/finetune.py MODEL_FOLDER RUN_FOLDER data.jsonl --init ADAPTER --time

RUN_FOLDER is one of `midblock tune`: its metrics.jsonl says which samples (file:row) each step trained on and with which
learning rate. ADAPTER is what the run started from: `midblock tune … --lr 0 --steps 1` writes it. Rows become a chat of
`question` and `answer`; loss on the answer and its end of turn; micro-batches are padded to their longest sample, as
transformers' Trainer does. Prints a line per step: our loss, PEFT's, their ratio; with --time tokens per second alone.
"""

import argparse
import json
import os
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("run")
parser.add_argument("data")
parser.add_argument("--init", required=True)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--max-length", type=int, default=512)
parser.add_argument("--weight-decay", type=float, default=0.0)
parser.add_argument("--clip", type=float)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--time", action="store_true")
args = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(args.threads)

import torch  # noqa: E402
from peft import PeftModel  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

torch.set_num_threads(args.threads)
tokenizer = AutoTokenizer.from_pretrained(args.model)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
model = PeftModel.from_pretrained(model, args.init, is_trainable=True).train()
model.config.use_cache = False
rows = [json.loads(line) for line in open(args.data)]


def sample(name):
    """Ids and labels of `file:row`."""
    row = rows[int(name.rsplit(":", 1)[1]) - 1]
    chat = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
    whole = tokenizer.apply_chat_template(chat, tokenize=False)
    prompt = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert whole.startswith(prompt)
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    end = len(prompt) + len(row["answer"]) + len("<|im_end|>")
    pairs = list(zip(encoded.input_ids, encoded.offset_mapping))[:args.max_length]
    ids = [i for i, _ in pairs]
    return ids, [i if len(prompt) <= start < end else -100 for i, (start, _) in pairs]


def batch(names):
    samples = [sample(name) for name in names]
    longest = max(len(ids) for ids, _ in samples)
    pad = lambda values, filler: torch.tensor([v + [filler] * (longest - len(v)) for v in values])  # noqa: E731
    ids = [ids for ids, _ in samples]
    return dict(input_ids=pad(ids, 0), labels=pad([labels for _, labels in samples], -100),
                attention_mask=pad([[1] * len(i) for i in ids], 0))


steps = [json.loads(line) for line in open(f"{args.run}/metrics.jsonl")]
steps = [s for s in steps if "samples" in s][:None if args.time else args.steps]
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=args.weight_decay)
tokens, start, worst = 0, time.perf_counter(), 0.0
for step in steps:
    micro = [batch(names) for names in step["samples"]]
    labelled = sum(int((m["labels"][:, 1:] != -100).sum()) for m in micro)
    tokens += sum(int(m["attention_mask"].sum()) for m in micro)
    loss = 0.0
    for m in micro:
        part = model(**m, num_items_in_batch=torch.tensor(labelled)).loss
        part.backward()
        loss += part.item()
    if args.clip:
        torch.nn.utils.clip_grad_norm_(trained, args.clip)
    optimizer.param_groups[0]["lr"] = step["lr"]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if not args.time:
        worst = max(worst, abs(loss / step["loss"] - 1))
        print(f"{step['step']:4} {step['loss']:.6f} {loss:.6f} {loss / step['loss']:.6f}", flush=True)
seconds = time.perf_counter() - start
print(json.dumps(dict(steps=len(steps), tokens=tokens, seconds=round(seconds, 2), tokens_per_s=round(tokens / seconds, 1),
                      **({} if args.time else {"largest_relative_difference": round(worst, 6)}))))
