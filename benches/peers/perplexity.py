#!/usr/bin/env python3
"""Perplexity of GSM8K text in transformers, one sample at a time: no padding, no batching.

    python benches/peers/perplexity.py MODEL_FOLDER gsm8k.jsonl [--adapter PEFT_FOLDER] [--rows 100] [--ids 3]

`Question: {q}\\nAnswer: {a}`, no special tokens added, cut at --max-length tokens; every token but the first of a text is
predicted. Prints one JSON line; mean_nll is in nats per predicted token over all rows.
"""

import argparse
import itertools
import json
import math

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("data")
parser.add_argument("--adapter")
parser.add_argument("--rows", type=int, default=100)
parser.add_argument("--max-length", type=int, default=128)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--ids", type=int, default=0, help="print the token ids of the first rows")
args = parser.parse_args()
torch.set_num_threads(args.threads)

tokenizer = Tokenizer.from_file(f"{args.model}/tokenizer.json")
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
if args.adapter:
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, args.adapter)
model.eval()

total_nll, predicted, tokens, first_ids, first_nlls = 0.0, 0, 0, [], []
with open(args.data) as lines, torch.inference_mode():
    for line in itertools.islice(lines, args.rows):
        row = json.loads(line)
        ids = tokenizer.encode(f"Question: {row['question']}\nAnswer: {row['answer']}").ids[:args.max_length]
        x = torch.tensor([ids])
        log_p = model(x, use_cache=False).logits[0, :-1].double().log_softmax(-1)
        nll = -log_p.gather(1, x[0, 1:, None]).sum().item()
        total_nll, predicted, tokens = total_nll + nll, predicted + len(ids) - 1, tokens + len(ids)
        first_ids.append(ids)
        first_nlls.append(nll / (len(ids) - 1))

mean = total_nll / predicted
result = dict(model=args.model, adapter=args.adapter, rows=len(first_ids), tokens=tokens, predicted_tokens=predicted,
              mean_nll=round(mean, 8), perplexity=round(math.exp(mean), 6), first_row_nll=round(first_nlls[0], 8))
if args.ids:
    result["ids"] = first_ids[:args.ids]
print(json.dumps(result))
