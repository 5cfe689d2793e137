#!/usr/bin/env python3
"""The layer-wise comparison of two models as a careful Python user writes it: the peer of `midblock analyze`.

    python benches/peers/analysis.py BASE_FOLDER gsm8k.jsonl (--variant FOLDER | --adapter PEFT_FOLDER) [--samples 200]

Two passes, as in the published scripts of arXiv 2604.11838: (1) each model's hidden states of all layers are saved, one .pt
file per batch of 10 padded samples; (2) the files are loaded and the metrics computed. Unlike those scripts, padding is
left out of every statistic, the last block is measured, and statistics are in f64, so the numbers can be compared with
ours. No intervals, no permutation floors. Prints one JSON line with times, peak memory, bytes written and a checksum.
"""

import argparse
import itertools
import json
import os
import pathlib
import resource
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("base")
parser.add_argument("data")
variant = parser.add_mutually_exclusive_group(required=True)
variant.add_argument("--variant")
variant.add_argument("--adapter")
parser.add_argument("--samples", type=int, default=200)
parser.add_argument("--token-samples", type=int, default=50)
parser.add_argument("--max-length", type=int, default=128)
parser.add_argument("--batch", type=int, default=10)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--work", help="folder for the saved states (default: a temporary one, removed afterwards)")
parser.add_argument("--csv", help="also write model,metric,layer,value")
args = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(args.threads)  # before torch is imported

import torch  # noqa: E402
import transformers  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

torch.set_num_threads(args.threads)


# Pass 1: states to disk.

def load_texts():
    with open(args.data) as lines:
        rows = [json.loads(line) for line in itertools.islice(lines, args.samples)]
    return [f"Question: {r['question']}\nAnswer: {r['answer']}" for r in rows]


def save_states(folder, adapter, texts, out):
    """One file per batch: {"hidden": [(B, T, D)] * (L+1), "mask": (B, T)}; h[L] is taken before the final norm."""
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter:
        from peft import PeftModel
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    model = model.model.eval()
    last = []
    model.layers[-1].register_forward_hook(lambda _, __, output: last.append(output))
    tokens = 0
    with torch.inference_mode():
        for i in range(0, len(texts), args.batch):
            rows = [tokenizer.encode(text).ids[:args.max_length] for text in texts[i:i + args.batch]]
            T = max(map(len, rows))
            ids = torch.tensor([row + [0] * (T - len(row)) for row in rows])
            mask = torch.tensor([[1] * len(row) + [0] * (T - len(row)) for row in rows])
            states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
            torch.save({"hidden": [*states[:-1], last.pop()], "mask": mask.bool()}, out / f"batch_{i:05}.pt")
            tokens += int(mask.sum())
    return tokens


# Pass 2: metrics from disk.

def entropy(eigenvalues):
    p = eigenvalues.clamp(min=0)
    p = p / p.sum()
    return -(p * p.clamp(min=1e-300).log()).sum().item()


def unit_rows(x):
    return x / x.norm(dim=1, keepdim=True)


def gram_entropy(x):
    """Entropy of the Gram matrix of unit rows, over ln min(rows, D)."""
    x = unit_rows(x)
    gram = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
    return entropy(torch.linalg.eigvalsh(gram)) / torch.log(torch.tensor(float(min(x.shape)))).item()


def curvature(h):
    steps = h[1:] - h[:-1]
    norms = steps.norm(dim=1)
    keep = (norms[1:] > 0) & (norms[:-1] > 0)
    cosine = (steps[1:] * steps[:-1]).sum(1)[keep] / (norms[1:] * norms[:-1])[keep]
    return (cosine.clamp(-1, 1).acos().mean() / torch.pi).item()


def infonce(a, b, temperature=0.1):
    logits = unit_rows(a) @ unit_rows(b).T / temperature
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(a))).item()


def lidar(views, delta=1e-4):
    """views (N, V, D): samples are classes."""
    centres = views.mean(1)
    within = (views - centres[:, None]).flatten(0, 1)
    between = centres - centres.mean(0)
    s_w = within.T @ within / len(within) + delta * torch.eye(views.shape[-1], dtype=views.dtype)
    # L⁻¹ S_b L⁻ᵀ with S_w = L Lᵀ has the spectrum of S_w^−½ S_b S_w^−½.
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(s_w), between.T, upper=False)
    return entropy(torch.linalg.svdvals(half) ** 2) / torch.log(torch.tensor(float(min(between.shape)))).item()


def two_nn(x):
    distances = torch.cdist(x, x).fill_diagonal_(float("inf")).topk(2, largest=False).values
    ratio = distances[:, 1] / distances[:, 0]
    return len(ratio) / ratio.log().sum().item()


def single_model(x, views):
    sigma = torch.linalg.svdvals(x)
    norms = x.norm(dim=1)
    ordered, n = norms.sort().values, len(norms)
    rank = torch.arange(1, n + 1, dtype=x.dtype)
    return dict(
        dataset_entropy=gram_entropy(x), infonce=infonce(views[:, :2].mean(1), views[:, 2:].mean(1)), lidar=lidar(views),
        intrinsic_dimension=two_nn(x), l2_norm_mean=norms.mean().item(), l2_norm_sd=norms.std().item(),
        effective_rank=torch.tensor(entropy(sigma ** 2)).exp().item() / min(x.shape), spectral_norm=sigma[0].item(),
        condition_number=(sigma[0] / (sigma[-1] + 1e-9)).item(),
        rank_deficiency=1 - (sigma > 0.01 * sigma[0]).sum().item() / min(x.shape),
        gini=((2 * rank - n - 1) @ ordered / (n * ordered.sum())).item())


def cka(x, y, debiased):
    k, l = x @ x.T, y @ y.T
    if not debiased:
        centre = torch.eye(len(k), dtype=k.dtype) - 1 / len(k)
        k, l = centre @ k @ centre, centre @ l @ centre
        return ((k * l).sum() / (k.norm() * l.norm())).item()

    def hsic(a, b):
        n = len(a)
        a, b = a.clone().fill_diagonal_(0), b.clone().fill_diagonal_(0)
        return ((a * b).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * (a.sum(0) @ b.sum(0)) / (n - 2)) / (n * (n - 3))
    return (hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt()).item()


def alignment(x, y, k=8):
    bases = [torch.linalg.svd(z - z.mean(0), full_matrices=False).Vh[:k] for z in (x, y)]
    shift, change = (y.mean(0) - x.mean(0)).norm().item(), (y - x).norm(dim=1).mean().item()
    return dict(
        cka=cka(x, y, False), cka_debiased=cka(x, y, True),
        cosine_similarity=torch.nn.functional.cosine_similarity(x, y).mean().item(),
        mean_shift=shift, mean_shift_relative=shift / x.mean(0).norm().item(),
        change_intensity=change, change_intensity_relative=change / x.norm(dim=1).mean().item(),
        subspace_overlap=(bases[0] @ bases[1].T).pow(2).sum().item() / k)


def load_pooled(folder):
    """Pooled states (L+1, N, D), views (L+1, N, 4, D), and per layer the token metrics of the first samples."""
    pooled, views, maximum, files = [], [], None, sorted(folder.glob("*.pt"))
    token = {"prompt_entropy": [], "curvature": []}
    generator = torch.Generator().manual_seed(42)
    seen = 0
    for file in files:
        batch = torch.load(file)
        hidden = torch.stack(batch["hidden"])  # (L+1, B, T, D)
        for b, mask in enumerate(batch["mask"]):
            h = hidden[:, b, mask].double()  # (L+1, T_n, D)
            pooled.append(h.mean(1))
            order = torch.randperm(h.shape[1], generator=generator)
            views.append(torch.stack([h[:, order[v::4]].mean(1) for v in range(4)], 1))
            if seen < args.token_samples:
                token["prompt_entropy"].append([gram_entropy(layer) for layer in h])
                token["curvature"].append([curvature(layer) for layer in h])
                top = h.abs().amax((1, 2))
                maximum = top if maximum is None else torch.maximum(maximum, top)
            seen += 1
    below, total, seen = 0, 0, 0
    for file in files:  # sparsity needs the layer's maximum first
        batch = torch.load(file)
        for b, mask in enumerate(batch["mask"]):
            if seen < args.token_samples:
                h = torch.stack([layer[b, mask] for layer in batch["hidden"]]).double().abs()
                below = below + (h < 0.01 * maximum[:, None, None]).sum((1, 2))
                total += h[0].numel()
            seen += 1
        if seen >= args.token_samples:
            break
    metrics = {name: torch.tensor(values, dtype=torch.float64).mean(0).tolist() for name, values in token.items()}
    metrics["sparsity"] = (below.double() / total).tolist()
    return torch.stack(pooled, 1), torch.stack(views, 1), metrics


def measure(folders):
    records, states = [], {}
    for model, folder in folders.items():
        states[model], views, token = load_pooled(folder)
        for layer, x in enumerate(states[model]):
            values = {**{name: curve[layer] for name, curve in token.items()}, **single_model(x, views[layer])}
            records += [(model, metric, layer, value) for metric, value in values.items()]
    for layer, (x, y) in enumerate(zip(states["base"], states["variant"])):
        records += [("variant", metric, layer, value) for metric, value in alignment(x, y).items()]
    return records


def main(work):
    texts, seconds, start = load_texts(), {}, time.perf_counter()
    folders = {name: work / name for name in ("base", "variant")}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        began = time.perf_counter()
        is_variant = name == "variant"
        tokens = save_states(args.variant if is_variant and args.variant else args.base,
                             args.adapter if is_variant else None, texts, folder)
        seconds[f"extract_{name}"] = time.perf_counter() - began
    written = sum(f.stat().st_size for f in work.rglob("*.pt"))
    extract_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    began = time.perf_counter()
    records = measure(folders)
    seconds["metrics"] = time.perf_counter() - began
    seconds["total"] = time.perf_counter() - start
    if args.csv:
        pathlib.Path(args.csv).write_text(
            "model,metric,layer,value\n" + "".join(f"{m},{k},{l},{v!r}\n" for m, k, l, v in records))
    cka_curve = [v for _, metric, _, v in records if metric == "cka_debiased"]
    print(json.dumps(dict(
        peer=f"torch {torch.__version__}, transformers {transformers.__version__}", threads=args.threads,
        samples=len(texts), token_samples=min(args.token_samples, len(texts)), max_length=args.max_length, tokens=tokens,
        seconds={k: round(v, 2) for k, v in seconds.items()}, peak_rss_mib_extract=extract_rss,
        peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, bytes_written=written,
        metrics=sorted({metric for _, metric, _, _ in records}), values=len(records),
        checksum_mean_cka_debiased=round(sum(cka_curve) / len(cka_curve), 8))))


if args.work:
    main(pathlib.Path(args.work))
else:
    with tempfile.TemporaryDirectory() as folder:
        main(pathlib.Path(folder))
