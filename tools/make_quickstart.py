#!/usr/bin/env python3
"""Make the pair that `midblock quickstart` analyses: a tiny Llama, trained, and a fine-tuned variant of it.

    python tools/make_quickstart.py       # into crates/midblock-cli/assets/quickstart/, some minutes on one core

The base learns plain sentences, stories with numbers and sums from a generator in this file. The variant is fine-tuned on
`Question: …\\nAnswer: …` with a loss on the answer only and nothing but the blocks 2..6 of 8 unfrozen, so the report has
something true to show: other tensors are the same bytes in both. Needs torch, transformers, tokenizers, safetensors.
"""

import hashlib
import json
import math
import pathlib
import random
import re

import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

OUT = pathlib.Path(__file__).resolve().parent.parent / "crates/midblock-cli/assets/quickstart"
SEED = 17
TUNED_BLOCKS = range(2, 6)  # 0-based
END = "<|endoftext|>"
CONTEXT = 96

NAMES = "Anna Ben Clara David Emma Farid Grace Hugo Ines Jonas Kim Lena Marco Nora Omar Paula Quinn Rosa Sam Tara".split()
THINGS = "apples pencils books coins shells stamps marbles oranges stickers cards buttons eggs flowers stones".split()
PLACES = "market school garden library station beach kitchen museum park bakery".split()
ANIMALS = "cat dog horse bird fox rabbit goat duck turtle sheep".split()
WEATHER = "sunny rainy windy cold warm cloudy quiet foggy".split()
FOODS = "bread soup rice cake salad cheese porridge jam".split()
ADJECTIVES = "small old green happy tired brave hungry slow clever white".split()


def problem(rng):
    """One word problem: the story's sentences, the question, the steps of its solution, the result's sentence."""
    who, other = rng.sample(NAMES, 2)
    thing, place = rng.choice(THINGS), rng.choice(PLACES)
    a, b, c = rng.randint(2, 40), rng.randint(2, 30), rng.randint(2, 9)
    kind = rng.randrange(5)
    if kind == 0:
        return ([f"{who} has {a} {thing}.", f"{other} gives {who} {b} more at the {place}."],
                f"How many {thing} does {who} have now?", [(f"{a}+{b}", a + b)], f"{who} has {{}} {thing}.")
    if kind == 1:
        total = a + b
        return ([f"{who} takes {total} {thing} to the {place}.", f"{who} sells {a} of them."],
                f"How many {thing} are left?", [(f"{total}-{a}", b)], f"There are {{}} {thing} left.")
    if kind == 2:
        return ([f"There are {c} boxes in the {place}.", f"Each box holds {b} {thing}."],
                f"How many {thing} are in the boxes?", [(f"{c}*{b}", c * b)], f"The boxes hold {{}} {thing}.")
    if kind == 3:
        return ([f"{who} buys {c} bags with {b} {thing} each.", f"{who} already had {a} {thing} at home."],
                f"How many {thing} does {who} have in all?", [(f"{c}*{b}", c * b), (f"{c * b}+{a}", c * b + a)],
                f"{who} has {{}} {thing} in all.")
    total = b * c
    return ([f"{who} finds {total} {thing} near the {place}.", f"{who} shares them equally among {c} friends."],
            f"How many {thing} does each friend get?", [(f"{total}/{c}", b)], f"Each friend gets {{}} {thing}.")


def sample(rng):
    """In the form of GSM8K: calculator annotations, the result after `####`."""
    story, question, steps, closing = problem(rng)
    lines, value = [spelled(*step) for step in steps], steps[-1][1]
    return {"question": " ".join([*story, question]),
            "answer": "\n".join([*lines, closing.format(value), f"#### {value}"])}


def spelled(step, value):
    """`3 + 4 = <<3+4=7>>7`."""
    spaced = re.sub(r"([-+*/])", r" \1 ", step)
    return f"{spaced} = <<{step}={value}>>{value}"


def prose(rng):
    """What the base is trained on: stories with their end, notes, sums; every token of the answers, but never such answers."""
    kind = rng.random()
    if kind < 0.4:
        story, _, steps, closing = problem(rng)
        return " ".join([*story, closing.format(steps[-1][1])])
    if kind < 0.6:
        lines = [spelled(*problem(rng)[2][0]) for _ in range(rng.randint(2, 4))]
        return "\n".join([f"#### {rng.choice(NAMES)}'s sums", *lines])
    if kind < 0.7:
        animal, place = rng.choice(ANIMALS), rng.choice(PLACES)
        return f"Question: Where is the {animal}?\nAnswer: The {animal} is in the {place}."
    who, other = rng.sample(NAMES, 2)
    place, animal = rng.choice(PLACES), rng.choice(ANIMALS)
    sentences = [
        f"The {rng.choice(ADJECTIVES)} {animal} sleeps near the {place}.",
        f"It is {rng.choice(WEATHER)} and {who} walks to the {place}.",
        f"{who} and {other} eat {rng.choice(FOODS)} with {rng.choice(FOODS)}.",
        f"{who} reads a book about a {rng.choice(ADJECTIVES)} {animal}.",
        f"When it is {rng.choice(WEATHER)}, the {animal} stays in the {place}.",
        f"\"Where is the {animal}?\" asks {other}. \"In the {place},\" says {who}.",
    ]
    return " ".join(rng.sample(sentences, rng.randint(2, 4)))


def as_text(s):
    return f"Question: {s['question']}\nAnswer: {s['answer']}"


def make_tokenizer():
    """Byte-level BPE of 512 tokens, each digit a token."""
    rng = random.Random(f"{SEED}/tokenizer")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=[END], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    texts = [prose(rng) for _ in range(4000)] + [as_text(sample(rng)) for _ in range(4000)]
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def packed_prose(tokenizer, rng, rows):
    """(rows, CONTEXT) ids of texts one after another, and the same as labels."""
    ids, end = [], tokenizer.token_to_id(END)
    while len(ids) < rows * CONTEXT:
        ids += [end, *tokenizer.encode(prose(rng)).ids]
    ids = torch.tensor(ids[:rows * CONTEXT]).view(rows, CONTEXT)
    return ids, ids


def answers(tokenizer, samples):
    """One sample a row, padded at the right; labels only on the answer and the end."""
    end, rows, labels = tokenizer.token_to_id(END), [], []
    for s in samples:
        prompt = tokenizer.encode(f"Question: {s['question']}\nAnswer:").ids
        answer = tokenizer.encode(f" {s['answer']}").ids + [end]
        rows.append([*prompt, *answer])
        labels.append([-100] * len(prompt) + answer)
    T = max(map(len, rows))
    return (torch.tensor([r + [end] * (T - len(r)) for r in rows]),
            torch.tensor([r + [-100] * (T - len(r)) for r in labels]))


def train(model, batch, steps, lr):
    """AdamW, warm-up, cosine decay; returns the mean loss of the last 20 steps."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1, (s + 1) / 30) * 0.5 * (1 + math.cos(math.pi * s / steps)))
    losses = []
    for step in range(steps):
        ids, labels = batch()
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: loss {losses[-1]:.3f}", flush=True)
    return sum(losses[-20:]) / 20


@torch.no_grad()
def answer_loss(model, tokenizer, samples):
    ids, labels = answers(tokenizer, samples)
    return model(input_ids=ids, labels=labels, use_cache=False).loss.item()


def round_to_bf16(model):
    """What is written is what was trained on and measured."""
    for p in model.parameters():
        p.data = p.data.to(torch.bfloat16).to(torch.float32)


def save(model, tokenizer, folder):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: p.detach().to(torch.bfloat16) for k, p in sorted(model.named_parameters())},
              folder / "model.safetensors", metadata={"format": "pt"})
    config = {k: v for k, v in model.config.to_diff_dict().items() if k != "_name_or_path"}
    (folder / "config.json").write_text(
        json.dumps({**config, "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}, indent=2, sort_keys=True) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END, "model_max_length": 512}, indent=2) + "\n")


def main():
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=64, intermediate_size=160, num_hidden_layers=8,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=0))

    rng = random.Random(f"{SEED}/held out")
    held_out, seen = [], set()
    while len(held_out) < 100:
        s = sample(rng)
        if s["question"] not in seen:
            seen.add(s["question"])
            held_out.append(s)

    rng = random.Random(f"{SEED}/base")
    base_loss = train(model, lambda: packed_prose(tokenizer, rng, 16), steps=600, lr=3e-3)
    round_to_bf16(model)
    save(model, tokenizer, OUT / "base")
    before = answer_loss(model, tokenizer, held_out)

    def unseen(rng):
        while (s := sample(rng))["question"] in seen:
            pass
        return s

    for name, p in model.named_parameters():
        p.requires_grad = any(name.startswith(f"model.layers.{block}.") for block in TUNED_BLOCKS)
    rng = random.Random(f"{SEED}/sft")
    sft_loss = train(model, lambda: answers(tokenizer, [unseen(rng) for _ in range(16)]), steps=400, lr=2e-3)
    round_to_bf16(model)
    save(model, tokenizer, OUT / "sft")
    after = answer_loss(model, tokenizer, held_out)

    (OUT / "data.jsonl").write_text("".join(json.dumps(s) + "\n" for s in held_out))
    manifest = dict(script="tools/make_quickstart.py",
                    script_sha256=hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest(), seed=SEED,
                    torch=torch.__version__, transformers=transformers.__version__, tokenizers=tokenizers.__version__,
                    tuned_blocks=list(TUNED_BLOCKS), base_train_loss=round(base_loss, 4), sft_train_loss=round(sft_loss, 4),
                    held_out_answer_loss={"base": round(before, 4), "sft": round(after, 4)})
    (OUT / "MANIFEST.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(json.dumps(manifest, indent=2))


if __name__ == "__main__":
    main()
