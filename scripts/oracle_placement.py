#!/usr/bin/env python3
"""`witan plan place` beside the published algorithm, over random shapes and loads.

    scripts/oracle_placement.py FOLDER [CASES [SEED]]

FOLDER holds eplb.py of https://github.com/deepseek-ai/EPLB (not part of this repository). Needs
torch, and build/witan. The published code sorts without asking for a stable order, so what it does
with equal loads depends on the version of torch and on the processor; here its sort is made stable.
"""

import random
import subprocess
import sys
from pathlib import Path

import torch

WITAN = Path(__file__).resolve().parent.parent / "build" / "witan"
KINDS = {
    "counts": lambda E: random.randrange(1000),
    "ties": lambda E: random.randrange(3),
    "zeros": lambda E: 0,
    "mostly zeros": lambda E: random.choice([0, 0, 0, random.randrange(100)]),
    "zipf": lambda E: int(1e5 / (1 + random.randrange(E)) ** 1.2),
    "fractions": lambda E: random.random(),
    "denormal": lambda E: random.random() * 1e-40,
}


def draw_shape():
    N, per_node = random.choice([1, 2, 3, 4, 8]), random.choice([1, 2, 3, 4, 8])
    G, per_group = random.choice([1, 2, 3, 4, 6, 8, 12, 16]), random.choice([1, 2, 3, 5, 8, 16, 32])
    D, E = N * per_node, G * per_group
    return E, D * (-(-E // D) + random.choice([0, 1, 2, 3, 8])), G, N, D


def witan(rows, R, G, N, D):
    text = "\n".join(" ".join(repr(load) for load in row) for row in rows)
    words = [WITAN, "plan", "place", "--load", "-", "--slots", R, "--groups", G, "--nodes", N,
             "--gpus", D]
    out = subprocess.run(list(map(str, words)), input=text, capture_output=True, text=True,
                         check=True)
    return [[int(word) for word in line.split()] for line in out.stdout.splitlines()]


def main():
    sys.path.insert(0, sys.argv[1])
    import eplb

    cases = int(sys.argv[2]) if len(sys.argv) > 2 else 300
    random.seed(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    sort = torch.Tensor.sort
    torch.Tensor.sort = lambda self, dim, descending: sort(self, dim=dim, descending=descending,
                                                           stable=True)
    wrong = 0
    for _ in range(cases):
        E, R, G, N, D = draw_shape()
        kind = random.choice(list(KINDS))
        loads = torch.tensor([[KINDS[kind](E) for _ in range(E)] for _ in range(2)]).float()
        expected = eplb.rebalance_experts(loads, R, G, N, D)[0].tolist()
        if witan(loads.tolist(), R, G, N, D) != expected:
            wrong += 1
            print(f"E {E} R {R} G {G} N {N} D {D}, {kind}: differ")
    print(f"{cases} cases, {wrong} differ")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
