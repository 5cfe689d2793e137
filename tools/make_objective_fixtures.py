#!/usr/bin/env python3
"""Make the fixtures of the training objectives: their formulas in plain PyTorch, in f64, on two of the tiny checkpoints.

    python tools/make_objective_fixtures.py         # into fixtures/objectives/

Needs what make_fixtures.py needs, and the checkpoints that it made.

An objective compares with the start model, so nothing of it shows at the start: here the trained parameters begin away
from the checkpoint (`start` tensors), which stays the reference. fixtures/README.md documents the layout.
"""

import hashlib
import json
import pathlib
import zlib

import numpy
import peft
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from make_fixtures import PAD, ROOT, SEED, VOCAB, double_precision

OUT = ROOT / "objectives"

# (tokens, of which so many at the beginning are not labelled) of each row, right-padded.
ROWS = [(13, 3), (9, 1), (1, 1), (7, 5)]

# `[objective]` of each run, as a configuration has it. k and v of the checkpoints are 16 high: 16 directions are all.
TABLES = {
    "sft": dict(kind="sft"),
    "dft": dict(kind="dft"),
    "iw": dict(kind="iw", tau=0.8, cap=16.0, detach=True),
    "iw-capped": {"kind": "iw", "tau": 2.0, "cap": 1.05, "detach": True},
    "iw-derived": {"kind": "iw", "tau": 1.5, "cap": 1.01, "detach": False},
    "kl": dict(kind="kl", beta=0.4),
    "rpsft": {"kind": "rpsft", "lambda": 0.2, "directions": 16, "normalised": False, "ends": True},
    "rpsft-blocks": {"kind": "rpsft", "lambda": 0.3, "directions": 7, "normalised": False, "ends": False},
    "rpsft-normalised": {"kind": "rpsft", "lambda": 3.0, "directions": 20, "normalised": True, "ends": True},
}

# What is trained in full with which objective; pairs are trained with all of them, on both.
FULL = {
    "llama-tied": ["dft", "iw-capped", "kl", "rpsft"],  # the head is the embedding
    "llama-bias": ["iw-derived", "kl", "rpsft-blocks", "rpsft-normalised"],  # a head of its own, biases
}


def noise(*key):
    """A generator of its own for every purpose."""
    return torch.Generator().manual_seed(zlib.crc32("/".join(map(str, (SEED, "objectives", *key))).encode()))


def make_batch(family):
    T = max(n for n, _ in ROWS)
    ids, mask = torch.full((len(ROWS), T), PAD), torch.zeros(len(ROWS), T, dtype=torch.int64)
    labels = torch.full((len(ROWS), T), -100)
    for b, (n, prompt) in enumerate(ROWS):
        ids[b, :n] = torch.randint(3, VOCAB, (n,), generator=noise(family, "ids", b))
        mask[b, :n] = 1
        labels[b, prompt:n] = ids[b, prompt:n]
    return dict(input_ids=ids, attention_mask=mask, labels=labels)


def log_probabilities(model, batch):
    """Of the whole vocabulary, at the positions that predict something: (B, T−1, V)."""
    with double_precision():
        mask = batch["attention_mask"]
        out = model(input_ids=batch["input_ids"], attention_mask=mask, use_cache=False,
                    position_ids=(mask.cumsum(1) - 1).clamp(min=0))
    assert out.logits.dtype == torch.float64
    return out.logits[:, :-1].log_softmax(-1)


class Objective:
    """The formula of a table; `reference` are the start model's log-probabilities, `held` the W0 that rpsft compares with."""

    def __init__(self, table, reference, batch, held):
        self.table, self.reference, self.batch = table, reference, batch
        self.labelled = batch["labels"][:, 1:] != -100
        self.targets = batch["labels"][:, 1:].clamp(min=0).unsqueeze(-1)
        self.blocks = {}
        for name, w0 in held.items() if table["kind"] == "rpsft" else ():
            ends = "embed_tokens" in name or "lm_head" in name
            if ends and not table["ends"]:
                continue
            u, s, vt = torch.linalg.svd(w0, full_matrices=False)
            k = table["directions"]
            if k < len(s):
                assert (s[k - 1] - s[k]) / s[0] > 1e-3, f"{name}: the block of {k} is not well separated"
                self.blocks[name] = (w0, u[:, :k], vt[:k].T)
            else:
                self.blocks[name] = (w0, None, None)

    def target_log_probabilities(self, log_p):
        return log_p.gather(-1, self.targets).squeeze(-1)  # (B, T−1)

    def __call__(self, log_p, matrices):
        """The objective, the cross entropy, and the weight of each row; `matrices` are W as they are."""
        kind, n = self.table["kind"], self.labelled.sum()
        nll = -self.target_log_probabilities(log_p) * self.labelled
        ce, weight = nll.sum() / n, torch.ones(len(nll))
        if kind == "sft":
            loss = ce
        elif kind == "dft":
            loss = ((-nll).exp().detach() * nll).sum() / n
        elif kind == "iw":
            ref_nll = -self.target_log_probabilities(self.reference) * self.labelled
            length = self.labelled.sum(1).clamp(min=1)
            ratio = (ref_nll.sum(1) - nll.sum(1)) / length  # of mean log-likelihoods
            weight = (self.table["tau"] * ratio).exp().clamp(max=self.table["cap"])
            if self.table["detach"]:
                weight = weight.detach()
            loss = (weight.unsqueeze(1) * nll).sum() / n
        elif kind == "kl":
            kl = (log_p.exp() * (log_p - self.reference)).sum(-1)
            kl = (kl * self.labelled).sum() / n
            loss = ce + self.table["beta"] * kl
        else:
            penalty = 0
            for name, (w0, u, v) in self.blocks.items():
                moved, still = matrices[name] - w0, w0
                if u is not None:
                    moved, still = u.T @ moved @ v, u.T @ still @ v
                term = (moved ** 2).sum()
                penalty = penalty + (term / (still ** 2).sum() if self.table["normalised"] else term)
            loss = ce + self.table["lambda"] * penalty
        return loss, ce, weight.detach()


def train(model, objective, trained, matrices):
    """The first gradients, and ten AdamW steps as in make_fixtures.py; `matrices()` are W as they are."""
    groups = [dict(params=[p for p in trained.values() if p.dim() > 1], weight_decay=0.1),
              dict(params=[p for p in trained.values() if p.dim() == 1], weight_decay=0.0)]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=2e-3, betas=(0.9, 0.95), eps=1e-8)
    result, curve = {}, []
    for step in range(10):
        optimizer.zero_grad()
        loss, ce, weights = objective(log_probabilities(model, objective.batch), matrices())
        loss.backward()
        curve.append([loss.item(), ce.item()])
        if step == 0:
            result["weights"] = weights
            result.update({f"grad.{k}": p.grad.clone() for k, p in trained.items()})
        optimizer.step()
    result["objectives"], result["cross_entropies"] = torch.tensor(curve, dtype=torch.float64).T
    return result


def full(family, model, reference, batch, tables):
    """All parameters, of which the middle block and the ends begin elsewhere; of the end result those are kept."""
    original = {k: v.clone() for k, v in model.state_dict().items()}
    middle = f"layers.{model.config.num_hidden_layers // 2}."
    trained = dict(model.named_parameters())
    kept = [k for k in trained if middle in k or "layers" not in k]
    start = {k: (original[k] + (0.05 if trained[k].dim() > 1 else 0.1)
                 * torch.randn(trained[k].shape, generator=noise(family, "start", k))).float() for k in kept}
    tensors = {f"full.start.{k}": v for k, v in start.items()}
    held = {k: original[k] for k, p in trained.items() if p.dim() > 1}
    for name in tables:
        for k, p in trained.items():  # not load_state_dict, in which a tied head comes last and has the old values
            p.data.copy_(start.get(k, original[k]))
        result = train(model, Objective(TABLES[name], reference, batch, held), trained, lambda: trained)
        result.update({f"adamw.{k}": trained[k].detach().clone() for k in kept})
        tensors.update({f"full.{name}.{k}": v for k, v in result.items()})
    model.load_state_dict(original)
    return tensors


def lora(model, reference, batch):
    """Pairs on every matrix of the middle block, which begin where those of make_fixtures.py do."""
    middle = model.config.num_hidden_layers // 2
    original = {k: v.clone() for k, v in model.state_dict().items()}
    config = peft.LoraConfig(r=3, lora_alpha=6, lora_dropout=0.0, task_type="CAUSAL_LM", layers_to_transform=[middle],
                             target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    with double_precision():
        adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=False).double().eval()
    pairs, start = {}, {}
    for key, p in adapted.named_parameters():
        if p.requires_grad:
            g = torch.Generator().manual_seed(zlib.crc32(f"{SEED}/lora/{key}".encode()))
            tidy = key.removeprefix("base_model.model.").replace(".default", "")
            pairs[tidy], start[tidy] = p, 0.2 * torch.randn(p.shape, generator=g)
    modules = sorted({k.split(".lora_")[0] for k in pairs})
    held = {k: original[f"{k}.weight"] for k in modules}

    def matrices():
        return {k: held[k] + 2.0 * pairs[f"{k}.lora_B.weight"] @ pairs[f"{k}.lora_A.weight"] for k in modules}

    tensors = {f"lora.start.{k}": v for k, v in start.items()}
    for name, table in TABLES.items():
        for k, p in pairs.items():
            p.data = start[k].double()
        result = train(adapted, Objective(table, reference, batch, held), pairs, matrices)
        result.update({f"adamw.{k}": p.detach().clone() for k, p in pairs.items()})
        tensors.update({f"lora.{name}.{k}": v for k, v in result.items()})
    return tensors


def check_visible(family, tensors, batch):
    """Every term counts: gradients differ from plain fine-tuning's, and the cap takes some sequences but not all."""
    labelled = (batch["labels"] != -100).any(1)
    for kind, name in [("lora", name) for name in TABLES] + [("full", name) for name in ["sft", *FULL[family]]]:
        run, table = f"{kind}.{name}.", TABLES[name]
        objectives, entropies = tensors[f"{run}objectives"], tensors[f"{run}cross_entropies"]
        report = f"{family:11} {run:23} {objectives[0]:.4f} -> {objectives[-1]:.4f}, CE {entropies[0]:.4f} -> {entropies[-1]:.4f}"
        # dft's own value, -p ln p, grows with belief; weights that are derived are made small by making the text unlikely
        falling = objectives if name == "iw-derived" else entropies
        assert falling[-1] < falling[0] - 0.01, report
        if table["kind"] == "iw":
            weights = tensors[f"{run}weights"][labelled]
            report += f", weights {[round(w, 3) for w in weights.tolist()]}"
            capped = (weights == table["cap"]).sum()
            assert capped < len(weights) and (capped > 0) == (table["cap"] < 2), report
            assert weights.max() / weights.min() > 1.05, report
        if name != "sft":
            apart = {}
            for k in (k for k in tensors if k.startswith(f"{run}grad.")):
                held = kind == "lora" or ("layers.1." in k and tensors[k].dim() > 1)
                if table["kind"] != "rpsft" or held:
                    plain = tensors[k.replace(run, f"{kind}.sft.")]
                    apart[k] = ((tensors[k] - plain).norm() / plain.norm()).item()
            report += f", gradients {min(apart.values()):.3f} to {max(apart.values()):.1f} from sft's"
            assert min(apart.values()) > 0.02, report
        print(report)


def make(family):
    folder = ROOT / family
    with double_precision():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float64,
                                                 attn_implementation="eager").eval()
    stored = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.load_state_dict(stored.state_dict())
    batch = make_batch(family)
    with torch.no_grad():
        reference = log_probabilities(model, batch)
    tensors = {**full(family, model, reference, batch, ["sft", *FULL[family]]), **lora(model, reference, batch)}
    check_visible(family, tensors, batch)
    yardsticks = ("full.sft.", ".weights")  # for the checks alone
    tensors = {k: v.float() for k, v in tensors.items() if not (k.startswith(yardsticks) or k.endswith(yardsticks))}
    tensors.update({f"right.{k}": v for k, v in batch.items()})
    tensors = {k: v.contiguous() for k, v in tensors.items()}
    save_file(tensors, OUT / f"{family}.safetensors")
    size = (OUT / f"{family}.safetensors").stat().st_size
    assert size < 2 << 20
    print(f"{family}: {size / 1024:.0f} KiB")


def main():
    OUT.mkdir(exist_ok=True)
    for family in FULL:
        make(family)
    here = pathlib.Path(__file__)
    manifest = dict(script=f"tools/{here.name}", script_sha256=hashlib.sha256(here.read_bytes()).hexdigest(), seed=SEED,
                    torch=torch.__version__, peft=peft.__version__, transformers=transformers.__version__,
                    numpy=numpy.__version__, objectives=TABLES, full=FULL)
    (OUT / "MANIFEST.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    main()
