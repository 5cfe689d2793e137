#!/usr/bin/env python3
"""Writes fixtures/metrics/*.json: small inputs and the value of every metric by NumPy/SciPy in float64.

Formulas are written as directly as possible and share nothing with the Rust code (explicit matrices, no Gram tricks, floors by
enumerating or averaging pairings where that is what defines them).  Run: python tools/make_metric_fixtures.py
"""
import itertools
import json
import pathlib

import numpy as np
import scipy
import scipy.linalg

OUT = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "metrics"
VIEWS = 4


def entropy(values, alpha=1.0):
    p = np.clip(values, 0, None)
    p = p / p.sum()
    p = p[p > 0]
    return -np.sum(p * np.log(p)) if alpha == 1 else np.log(np.sum(p**alpha)) / (1 - alpha)


def unit(x):
    n = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(n > 0, n, 1)


def states_entropy(h, alpha=1.0, paper=False):
    z = unit(h)
    k = z @ z.T
    if paper:
        k = k / h.shape[1] + 1e-6 * np.eye(len(h))
    return entropy(np.linalg.eigvalsh(k), alpha) / np.log(min(h.shape))


def curvature(h, clamp=1.0):
    v = np.diff(h, axis=0)
    angles = []
    for a, b in zip(v[:-1], v[1:]):
        if np.linalg.norm(a) > 0 and np.linalg.norm(b) > 0:
            cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
            angles.append(np.arccos(np.clip(cosine, -clamp, clamp)) / np.pi)
    return np.mean(angles) if angles else None


def infonce(a, b):
    s = unit(a) @ unit(b).T / 0.1
    return np.mean(scipy.special.logsumexp(s, axis=1) - np.diag(s))


def lidar(groups):  # (M, VIEWS, D)
    m, q, d = groups.shape
    mu = groups.mean(1)
    between = (mu - mu.mean(0)).T @ (mu - mu.mean(0)) / m
    dev = (groups - mu[:, None]).reshape(m * q, d)
    within = dev.T @ dev / (m * q) + 1e-4 * np.eye(d)
    root = np.real(scipy.linalg.inv(scipy.linalg.sqrtm(within)))
    return entropy(np.linalg.eigvalsh(root @ between @ root)) / np.log(min(m, d))


def dime(a, b):
    """Expectation over ALL pairings is out of reach: the parts, joint entropy and that of given pairings, are checked."""
    ka, kb = unit(a) @ unit(a).T, unit(b) @ unit(b).T
    return lambda order: entropy(np.linalg.eigvalsh(ka * kb[np.ix_(order, order)]))


def twonn(x):
    r = np.linalg.norm(x[:, None] - x[None], axis=-1)
    logs = []
    for i in range(len(x)):
        first, second = np.sort(np.delete(r[i], i))[:2]
        if first > 0:
            logs.append(np.log(second / first))
    return (len(logs) - 1) / np.sum(logs)


def gini(n):
    return np.abs(n[:, None] - n[None]).sum() / (2 * len(n) ** 2 * n.mean())


def hsic_biased(k, l):
    h = np.eye(len(k)) - 1 / len(k)
    return np.trace(k @ h @ l @ h)


def hsic_unbiased(k, l):  # Song et al. 2012, eq. 5
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))
    one = np.ones(n)
    return (
        np.trace(k @ l) + one @ k @ one * (one @ l @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ k @ l @ one
    ) / (n * (n - 3))


def cka(x, y, hsic):
    k, l = x @ x.T, y @ y.T
    return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


def overlap(x, y, k):
    vx = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:k].T
    vy = np.linalg.svd(y - y.mean(0), full_matrices=False)[2][:k].T
    return np.mean(np.cos(scipy.linalg.subspace_angles(vx, vy)) ** 2)


def model_metrics(x, views, tokens):
    s = np.linalg.svd(x, compute_uv=False)
    norms = np.linalg.norm(x, axis=1)
    ok = ~np.isnan(views).any((1, 2))
    groups = views[ok]
    a, b = groups[:, :2].mean(1), groups[:, 2:].mean(1)
    curvatures = [c for c in map(curvature, tokens) if c is not None]
    entries = np.abs(np.concatenate([t.ravel() for t in tokens]))
    loss = infonce(a, b)
    return {
        "prompt_entropy": np.mean([states_entropy(t) for t in tokens if len(t) > 1]),
        "dataset_entropy": states_entropy(x),
        "infonce": loss,
        "infonce_bound": 1 - loss / np.log(len(groups)),
        "lidar": lidar(groups),
        "curvature": np.mean(curvatures),
        "intrinsic_dimension": twonn(x),
        "l2_norm_mean": norms.mean(),
        "l2_norm_sd": norms.std(),
        "effective_rank": np.exp(entropy(s**2)) / min(x.shape),
        "spectral_norm": s[0],
        "condition_number": s[0] / (s[-1] + 1e-9),
        "rank_deficiency": 1 - np.sum(s > 0.01 * s[0]) / min(x.shape),
        "sparsity": np.mean(entries < 0.01 * entries.max()),
        "gini": gini(norms),
    }


def paper_metrics(x, tokens):
    return {
        "prompt_entropy": np.mean([states_entropy(t, paper=True) for t in tokens if len(t) > 1]),
        "dataset_entropy": states_entropy(x, paper=True),
        "curvature": np.mean([c for c in (curvature(t, 0.999) for t in tokens) if c is not None]),
    }


def pair_metrics(x, y, k):
    shift = np.linalg.norm(y.mean(0) - x.mean(0))
    change = np.linalg.norm(y - x, axis=1).mean()
    return {
        "cka": cka(x, y, hsic_biased),
        "cka_debiased": cka(x, y, hsic_unbiased),
        "subspace_overlap": overlap(x, y, k),
        "cosine_similarity": np.mean(np.sum(unit(x) * unit(y), axis=1)),
        "mean_shift": shift,
        "mean_shift_relative": shift / np.linalg.norm(x.mean(0)),
        "change_intensity": change,
        "change_intensity_relative": change / np.linalg.norm(x, axis=1).mean(),
    }


def pair_floors(x, y):
    """Means over every one of the n! pairings (and 2^n label swaps)."""
    n = len(x)
    pairings = [list(p) for p in itertools.permutations(range(n))]
    mean = lambda f: np.mean([f(y[p]) for p in pairings])
    d = y - x
    swaps = np.array(list(itertools.product([-1, 1], repeat=n)))
    return {
        "cka": mean(lambda z: cka(x, z, hsic_biased)),
        "cka_debiased": mean(lambda z: cka(x, z, hsic_unbiased)),
        "cosine_similarity": mean(lambda z: np.mean(np.sum(unit(x) * unit(z), axis=1))),
        "mean_shift": np.sqrt(np.mean(np.linalg.norm(swaps @ d / n, axis=1) ** 2)),
        "change_intensity": mean(lambda z: np.linalg.norm(z - x, axis=1).mean()),
    }


def states(rng, n, d, lengths):
    """Pooled states with a large shared mean, decaying spectrum and one outlier dimension, as in language models."""
    scale = 3.0 * 0.9 ** np.arange(d)
    scale[2] = 40
    centre = rng.normal(size=d)
    centre[2] = 60
    tokens = [
        (centre + rng.normal(size=d) * scale + 0.7 * rng.normal(size=(t, d)) * scale).astype(np.float32).astype(float)
        for t in lengths
    ]
    x = np.array([t.mean(0) for t in tokens])
    views = np.full((n, VIEWS, d), np.nan)
    for i, t in enumerate(tokens):
        if len(t) >= VIEWS:
            order = rng.permutation(len(t))
            views[i] = [t[order[g::VIEWS]].mean(0) for g in range(VIEWS)]
    return x, views, tokens


def capture_json(x, views, tokens, token_samples):
    flat = [None if np.isnan(v) else v for v in views.ravel()]
    return {"dim": x.shape[1], "pooled": x.ravel().tolist(), "views": flat,
            "tokens": [t.ravel().tolist() for t in tokens[:token_samples]]}


def representation_case(seed, n, d, k):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 12, n)
    lengths[1], lengths[3] = 1, 2  # one token: no entropy, no views; two: no curvature
    x, views, tokens = states(rng, n, d, lengths)
    tokens[4][2] = tokens[4][1]  # a repeated token
    y = x @ (np.eye(d) + 0.15 * rng.normal(size=(d, d)) / np.sqrt(d)) + 0.4 * rng.normal(size=(n, d)) + 0.3
    some = 6
    return {
        "reference": capture_json(x, views, tokens, some),
        "variant": capture_json(y, np.full_like(views, np.nan), [], 0),
        "subspace_rank": k,
        "model": model_metrics(x, views, tokens[:some]),
        "model_paper": paper_metrics(x, tokens[:some]),
        "model_renyi2": {
            "dataset_entropy": states_entropy(x, alpha=2.0),
            "prompt_entropy": np.mean([states_entropy(t, alpha=2.0) for t in tokens[:some] if len(t) > 1]),
        },
        "pair": pair_metrics(x, y, k),
    }


def floor_case(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6, 4)) + 1
    y = x + 0.5 * rng.normal(size=(6, 4)) + 0.2
    no_views = np.full((6, VIEWS, 4), np.nan)
    return {"reference": capture_json(x, no_views, [], 0), "variant": capture_json(y, no_views, [], 0),
            "floors": pair_floors(x, y)}


def dime_case(seed):
    rng = np.random.default_rng(seed)
    groups = rng.normal(size=(9, 1, 5)) + 0.4 * rng.normal(size=(9, VIEWS, 5))
    value = dime(groups[:, :2].mean(1), groups[:, 2:].mean(1))
    orders = [list(range(9))] + [rng.permutation(9).tolist() for _ in range(3)]
    return {"dim": 5, "views": groups.ravel().tolist(), "orders": orders, "entropies": [value(o) for o in orders]}


def rotation(w, v, k):
    uw, _, vw = np.linalg.svd(w)
    uv, _, vv = np.linalg.svd(v)
    left = np.sin(scipy.linalg.subspace_angles(uw[:, :k], uv[:, :k])) ** 2
    right = np.sin(scipy.linalg.subspace_angles(vw[:k].T, vv[:k].T)) ** 2
    return (left.mean() + right.mean()) / 2


def weight_case(seed, rows, cols, rank, k):
    rng = np.random.default_rng(seed)
    f32 = lambda a: a.astype(np.float32)
    before = f32(rng.normal(size=(rows, cols)) * 0.95 ** np.arange(cols))
    after = f32(before + 0.05 * rng.normal(size=(rows, cols)) * 0.8 ** np.arange(cols))
    b, a, scale = f32(rng.normal(size=(rows, rank))), f32(0.1 * rng.normal(size=(rank, cols))), 0.75

    def expected(delta):
        w = before.astype(float)
        s = np.linalg.svd(delta, compute_uv=False)
        return {
            "change": np.linalg.norm(delta), "relative": np.linalg.norm(delta) / np.linalg.norm(w), "spectral": s[0],
            "effective_rank": np.exp(entropy(s**2)) / min(rows, cols), "rotation": rotation(w, w + delta, k),
        }

    return {
        "shape": [rows, cols], "subspace_rank": k, "before": before.ravel().tolist(), "after": after.ravel().tolist(),
        "b": b.ravel().tolist(), "a": a.ravel().tolist(), "scale": scale,
        "dense": expected(after.astype(float) - before),
        "low_rank": expected(scale * b.astype(float) @ a.astype(float)),
    }


def write(name, data):
    data["made_with"] = {"numpy": np.__version__, "scipy": scipy.__version__}
    (OUT / name).write_text(json.dumps(data) + "\n")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    write("wide.json", representation_case(1, n=14, d=24, k=4))  # D > N, and D < M·VIEWS
    write("tall.json", representation_case(2, n=40, d=9, k=3))  # D < N
    write("widest.json", representation_case(3, n=10, d=48, k=2))  # D > M·VIEWS: LiDAR in the span
    write("floors.json", floor_case(4))
    write("dime.json", dime_case(5))
    write("weights.json", weight_case(6, rows=24, cols=36, rank=3, k=4))
