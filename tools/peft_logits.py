#!/usr/bin/env python3
"""Logits of PEFT LoRA adapters in Python PEFT, for crates/midblock/tests/peft_python.rs.

    python tools/peft_logits.py JOBS.json

Needs torch, transformers, peft and safetensors. JOBS.json is a list of {"base": folder, "adapter": folder, "ids": [ids],
"out": file}; a job with "lora" (arguments of LoraConfig) makes the adapter, with random A and B, and any other loads it.
Every job writes its f32 logits (1, T, V) to "out".
"""

import json
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

for job in json.load(open(sys.argv[1])):
    torch.manual_seed(2604)
    model = AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.float32, attn_implementation="eager")
    if "lora" in job:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **job["lora"]))
        model.save_pretrained(job["adapter"])
    else:
        model = PeftModel.from_pretrained(model, job["adapter"])
    with torch.no_grad():
        logits = model.eval()(torch.tensor([job["ids"]])).logits
    save_file({"logits": logits.contiguous()}, job["out"])
