#!/usr/bin/env python3
"""Routing in numpy float64, the oracle of tests/routing/oracle.h.

    scripts/oracle_routing.py > tests/routing/oracle.h

Needs numpy; the tests only need its output. Tokens whose choice is a near tie (two candidates
within MARGIN) are drawn again, so that fp32 must choose the same experts.
"""

import textwrap

import numpy as np

T = 4
MARGIN = 1e-3

# name, E, K, options
CASES = [
    ("topk then softmax", 8, 2, dict(score_after_topk=True)),
    ("topk then softmax, router bias", 32, 4, dict(score_after_topk=True, has_bias=True)),
    ("topk then softmax, correction", 16, 4, dict(score_after_topk=True, has_correction_bias=True)),
    ("softmax", 60, 4, dict()),
    ("softmax, normalised, scaled", 16, 8, dict(normalise=True, scale=1.5)),
    ("softmax, all experts", 7, 7, dict()),
    ("softmax, best groups by max, zero", 32, 6,
     dict(group_count=8, group_topk=3, mask_value="ZERO", scale=16.0)),
    ("softmax, few groups, zero", 12, 6, dict(group_count=4, group_topk=1, mask_value="ZERO")),
    ("sigmoid", 16, 3, dict(score="SIGMOID")),
    ("sigmoid, correction, top2 groups", 32, 4,
     dict(score="SIGMOID", has_correction_bias=True, group_count=8, group_topk=4,
          group_score="TOP2_SUM", normalise=True, normalise_epsilon=1e-20, scale=2.5)),
    ("sigmoid, correction, top2 groups, zero", 32, 4,
     dict(score="SIGMOID", has_correction_bias=True, group_count=8, group_topk=2,
          group_score="TOP2_SUM", mask_value="ZERO", normalise=True, scale=2.5)),
    ("sigmoid, topk groups", 24, 6,
     dict(score="SIGMOID", has_correction_bias=True, group_count=4, group_topk=2,
          group_score="TOPK_SUM")),
    ("sqrt softplus", 16, 4, dict(score="SQRT_SOFTPLUS", has_correction_bias=True,
                                  normalise=True, normalise_epsilon=0.125)),
]

DEFAULTS = dict(score="SOFTMAX", score_after_topk=False, normalise=False, normalise_epsilon=0.0,
                scale=1.0, group_count=1, group_topk=1, group_score="MAX", mask_value="NEG_INF",
                has_bias=False, has_correction_bias=False)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def clear(values, count):
    """Is the choice of the best `count` clear of ties, and their order too?"""
    top = np.sort(values)[::-1][:count + 1]
    return bool(np.all(top[:-1] - top[1:] > MARGIN)) if len(top) > 1 else True


def route(o, K, logits, bias, correction):
    """ids, weights of one token; None if it nearly ties."""
    E = len(logits)
    l = logits + bias
    if o["score_after_topk"]:
        s = l
    elif o["score"] == "SOFTMAX":
        s = softmax(l)
    elif o["score"] == "SIGMOID":
        s = 1 / (1 + np.exp(-l))
    else:
        s = np.sqrt(np.log1p(np.exp(l)))
    c = s + correction
    ok = True
    if o["group_count"] > 1:
        n = {"MAX": 1, "TOP2_SUM": 2, "TOPK_SUM": K // o["group_topk"]}[o["group_score"]]
        groups = c.reshape(o["group_count"], -1)
        score = -np.sort(-groups, axis=1)[:, :n].sum(axis=1)
        if o["group_topk"] < o["group_count"]:
            ordered = np.sort(score)[::-1]
            ok = ordered[o["group_topk"] - 1] - ordered[o["group_topk"]] > MARGIN
        kept = np.argsort(-score, kind="stable")[:o["group_topk"]]
        masked = np.full_like(groups, -np.inf if o["mask_value"] == "NEG_INF" else 0.0)
        masked[kept] = groups[kept]
        c = masked.reshape(-1)
    ids = np.argsort(-c, kind="stable")[:K]
    w = s[ids]
    if o["score_after_topk"]:
        w = softmax(w)
    if o["normalise"]:
        w = w / (w.sum() + o["normalise_epsilon"])
    # Equal zeros of the mask are exact ties, decided by index, in fp32 too.
    distinct = np.unique(c[np.isfinite(c)])
    ok = ok and clear(distinct, min(K, len(distinct) - 1))
    return (ids, w * o["scale"]) if ok else None


def array(kind, name, texts):
    body = textwrap.fill(", ".join(texts), 96, initial_indent="    ", subsequent_indent="    ")
    print(f"static const {kind} {name}[] = {{\n{body}}};")


def floats(values):
    return [repr(float(v)) + "f" for v in values]


def literal(key, value):
    prefix = {"score": "WITAN_SCORE_", "group_score": "WITAN_GROUP_SCORE_",
              "mask_value": "WITAN_MASK_"}
    if key in prefix:
        return prefix[key] + value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else repr(value) + "f"


def draw(random, count):
    """Normal numbers on a grid of 1/256: exact in fp32 and short to write."""
    return np.round(256 * random.standard_normal(count)) / 256


def main():
    random = np.random.default_rng(20240607)
    print("/* Written by scripts/oracle_routing.py; do not edit. */")
    print("/* clang-format off */")
    for i, (_, E, K, options) in enumerate(CASES):
        o = {**DEFAULTS, **options}
        bias = draw(random, E) if o["has_bias"] else np.zeros(E)
        correction = draw(random, E) / 2 if o["has_correction_bias"] else np.zeros(E)
        logits, ids, weights = [], [], []
        while len(logits) < T:
            l = 2 * draw(random, E)
            chosen = route(o, K, l, bias, correction)
            if chosen is not None:
                logits.append(l)
                ids.append(chosen[0])
                weights.append(chosen[1])
        array("float", f"logits_{i}", floats(np.concatenate(logits)))
        array("float", f"bias_{i}", floats(bias))
        array("float", f"correction_{i}", floats(correction))
        array("int32_t", f"ids_{i}", map(str, np.concatenate(ids)))
        array("double", f"weights_{i}", (repr(float(w)) for w in np.concatenate(weights)))
    print("static const oracle_t oracles[] = {")
    for i, (name, E, K, options) in enumerate(CASES):
        fields = ", ".join(f".{k} = {literal(k, v)}" for k, v in {**DEFAULTS, **options}.items())
        fields = textwrap.fill(f"{{{fields}}},", 96, initial_indent="     ",
                               subsequent_indent="      ")
        print(f'    {{"{name}", {T}, {E}, {K},\n{fields}\n'
              f"     logits_{i}, bias_{i}, correction_{i}, ids_{i}, weights_{i}}},")
    print("};")


if __name__ == "__main__":
    main()
