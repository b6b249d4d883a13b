#!/usr/bin/env python3
"""Time torch._grouped_mm and a plain Triton grouped GEMM beside `witan bench experts --backend cuda`.

Same shapes, same machine, one run, in the order A B A: Witan, the peers, Witan again, and so on by
as many rounds as are asked for. Random data, the L2 cache flushed before every timing, medians, of
several rounds their median. The peers are timed on their two products alone, one after the other in
one timing, rows already sorted by expert; Witan's time holds everything between the rows of the
tokens and the rows of the result: sort, gather, both products, bias and activation, scatter. The
ratio is therefore a lower bound. "torch, all" is that whole work in eager PyTorch around
torch._grouped_mm: what it takes its user.

usage: gpu_bench.py --witan build/witan --out DIR [--shapes NAME,...] [--rows N,...] [--repeat N]
                    [--rounds N]

Needs PyTorch with CUDA; Triton where it is there. Writes DIR/peers.json and prints a table.
"""
import argparse
import functools
import json
import pathlib
import shutil
import statistics
import subprocess
import sys

try:
    import torch
    torch_missing = None
except (ImportError, OSError) as error:  # without it --help still works
    torch_missing = str(error).split("\n")[0]

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

# experts, top-k, hidden size, expert width; of the large ones the experts of one rank of several
SHAPES = {
    "deepseek-v3": (32, 8, 7168, 2048),
    "mixtral-8x7b": (8, 2, 4096, 14336),
    "qwen3-30b-a3b": (128, 8, 2048, 768),
    "qwen3-235b-a22b": (32, 8, 4096, 1536),
    "gpt-oss-120b": (32, 4, 2880, 2880),
    "olmoe-1b-7b": (64, 8, 2048, 1024),
}
FLUSH_BYTES = 256 << 20


def median_ms(call, flush, repeat):
    for _ in range(2):
        call()
    times = []
    for _ in range(repeat):
        flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


if triton is not None:

    @triton.jit
    def grouped_kernel(a, b, c, block_expert, block_row, row_end, N, K, BM: tl.constexpr,
                       BN: tl.constexpr, BK: tl.constexpr):
        """One block of rows of one expert times one block of its columns."""
        columns = tl.cdiv(N, BN)
        block = tl.program_id(0) // columns
        expert = tl.load(block_expert + block).to(tl.int64)
        rows = tl.load(block_row + block).to(tl.int64) + tl.arange(0, BM)
        n = (tl.program_id(0) % columns) * BN + tl.arange(0, BN)
        inside = rows < tl.load(row_end + expert)
        k = tl.arange(0, BK)
        a_at = a + rows[:, None] * K + k[None, :]
        b_at = b + expert * N * K + n[None, :].to(tl.int64) * K + k[:, None]
        total = tl.zeros((BM, BN), dtype=tl.float32)
        for step in range(0, tl.cdiv(K, BK)):
            left = k < K - step * BK
            x = tl.load(a_at, mask=inside[:, None] & left[None, :], other=0.0)
            w = tl.load(b_at, mask=(n < N)[None, :] & left[:, None], other=0.0)
            total = tl.dot(x, w, total)
            a_at += BK
            b_at += BK
        c_at = c + rows[:, None] * N + n[None, :]
        tl.store(c_at, total.to(tl.bfloat16), mask=inside[:, None] & (n < N)[None, :])


class Triton:
    """The kernel above with the better of a few tile sizes."""

    name = "triton"
    tiles = ((128, 128, 64, 4, 8), (128, 256, 64, 3, 8), (64, 128, 64, 4, 4), (16, 128, 128, 4, 4))

    def __init__(self, counts, device):
        ends = torch.tensor(counts).cumsum(0)
        self.row_end = ends.to(device)
        self.blocks = {}
        for tile in {t[0] for t in self.tiles}:
            expert, row = [], []
            for e, count in enumerate(counts):
                begin = int(ends[e]) - count
                for r in range(0, count, tile):
                    expert.append(e)
                    row.append(begin + r)
            self.blocks[tile] = (torch.tensor(expert, device=device),
                                 torch.tensor(row, device=device))

    def calls(self, a, b, c):
        N, K = b.shape[1], b.shape[2]
        for bm, bn, bk, stages, warps in self.tiles:
            expert, row = self.blocks[bm]
            kernel = grouped_kernel[(len(expert) * triton.cdiv(N, bn),)]
            yield functools.partial(kernel, a, b, c, expert, row, self.row_end, N, K, bm, bn, bk,
                                    num_stages=stages, num_warps=warps)


class Torch:
    name = "torch._grouped_mm"

    def __init__(self, counts, device):
        self.ends = torch.tensor(counts).cumsum(0).to(torch.int32).to(device)

    def calls(self, a, b, c):
        yield lambda: torch._grouped_mm(a, b.transpose(1, 2), offs=self.ends)


def dense_ms(rows, H, I, flush, repeat):
    """cuBLAS on two products of the same totals, the ceiling of grouped ones."""
    x = torch.randn(rows, H, dtype=torch.bfloat16, device="cuda")
    h = torch.randn(rows, I, dtype=torch.bfloat16, device="cuda")
    up = torch.randn(2 * I, H, dtype=torch.bfloat16, device="cuda")
    down = torch.randn(H, I, dtype=torch.bfloat16, device="cuda")
    return median_ms(lambda: (x @ up.t(), h @ down.t()), flush, repeat)


def best_call(peer, product, flush, repeat):
    """The fastest of a peer's ways to do a product (a, b, c), or None."""
    best = None
    for call in peer.calls(*product):
        try:
            ms = median_ms(call, flush, repeat)
        except Exception as error:  # a tile that does not fit the device
            print(f"# {peer.name}: {type(error).__name__}: {str(error).splitlines()[0]}",
                  file=sys.stderr)
            continue
        if best is None or ms < best[0]:
            best = ms, call
    return None if best is None else best[1]


def products_ms(peer, up, down, flush, repeat):
    """Both products, one after the other, each in the peer's best way."""
    first, second = (best_call(peer, product, flush, repeat) for product in (up, down))
    if first is None or second is None:
        return None
    return median_ms(lambda: (first(), second()), flush, repeat)


def network_ms(tokens, slots, ids, up, down, flush, repeat):
    """What Witan's time holds, in eager PyTorch: ids has the expert of each slot of each token."""
    E, H, I = down.shape
    experts = torch.arange(E, device="cuda")
    out = torch.empty(len(ids), H, dtype=torch.bfloat16, device="cuda")

    def call():
        sorted_ids, order = ids.sort(stable=True)
        ends = torch.searchsorted(sorted_ids, experts, right=True).to(torch.int32)
        x = tokens.index_select(0, order // slots)
        u = torch._grouped_mm(x, up.transpose(1, 2), offs=ends)
        h = torch.nn.functional.silu(u[:, :I]) * u[:, I:]
        out.index_copy_(0, order, torch._grouped_mm(h, down.transpose(1, 2), offs=ends))

    return median_ms(call, flush, repeat)


def time_peers(shape, rows, repeat):
    E, K, H, I = SHAPES[shape]
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    counts = [rows] * E
    total = rows * E
    x = torch.randn(total, H, dtype=torch.bfloat16, device="cuda")
    h = torch.randn(total, I, dtype=torch.bfloat16, device="cuda")
    up = torch.randn(E, 2 * I, H, dtype=torch.bfloat16, device="cuda") * H**-0.5
    down = torch.randn(E, H, I, dtype=torch.bfloat16, device="cuda") * I**-0.5
    up_out = torch.empty(total, 2 * I, dtype=torch.bfloat16, device="cuda")
    down_out = torch.empty(total, H, dtype=torch.bfloat16, device="cuda")
    result = {}
    for kind in (Torch, Triton) if triton is not None else (Torch,):
        peer = kind(counts, "cuda")
        result[peer.name] = products_ms(peer, (x, up, up_out), (h, down, down_out), flush, repeat)
    ids = torch.arange(E, device="cuda").repeat_interleave(rows)[torch.randperm(total)]
    result["torch, all"] = network_ms(x[:-(-total // K)], K, ids, up, down, flush, repeat)
    if rows >= 1024:
        result["cublas dense"] = dense_ms(total, H, I, flush, repeat)
    return result


def time_witan(program, shape, rows, repeat, out):
    E, K, H, I = SHAPES[shape]
    report = out / "witan.json"
    subprocess.run([program, "bench", "experts", "--backend", "cuda", "--dtype", "bf16",
                    "--experts", str(E), "--topk", str(K), "--hidden", str(H), "--inter", str(I),
                    "--rows", ",".join(map(str, rows)), "-n", str(repeat), "--json", str(report)],
                   check=True, stdout=subprocess.DEVNULL)
    results = json.loads(report.read_text())["results"]
    return {r["rows_per_expert"]: r["p50_us"] * 1e-3 for r in results}


def shape_names(text):
    names = text.split(",")
    for name in names:
        if name not in SHAPES:
            raise argparse.ArgumentTypeError(f"'{name}', expected some of {','.join(SHAPES)}")
    return names


def count(text):
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}', expected a number above 0")
    return int(text)


def counts(text):
    return [count(part) for part in text.split(",")]


def read_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--witan", required=True, metavar="PROGRAM")
    parser.add_argument("--out", required=True, type=pathlib.Path, metavar="DIR")
    parser.add_argument("--shapes", type=shape_names, default=list(SHAPES), metavar="NAME,...",
                        help=f"some of {', '.join(SHAPES)}; all without")
    parser.add_argument("--rows", type=counts, default=[4, 16, 64, 1024, 2048], metavar="N,...",
                        help="rows of each expert")
    parser.add_argument("--repeat", type=count, default=11, metavar="N")
    parser.add_argument("--rounds", type=count, default=1, metavar="N")
    return parser.parse_args()


def require(condition, text):
    if not condition:
        sys.exit(f"gpu_bench.py: {text}")


def main():
    options = read_options()
    require(torch_missing is None, f"needs PyTorch with CUDA: {torch_missing}")
    require(torch.cuda.is_available(), f"needs CUDA: torch {torch.__version__} finds no device")
    require(shutil.which(options.witan), f"{options.witan}: not a program")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        measure(options)
    except OSError as error:
        require(False, error)
    except subprocess.CalledProcessError as error:
        require(False, f"that failed: {' '.join(error.cmd)}")


def measure(options):
    rows = options.rows
    results = []
    print(f"# {torch.cuda.get_device_name()}, torch {torch.__version__}, bf16, medians of "
          f"{options.repeat}, rounds: {options.rounds}; ms; least and most of witan's; ratio: peer's "
          "two products / witan's whole expert network")
    print(f"# {'shape':16} {'E':>4} {'rows':>6} {'witan':>9} {'least':>9} {'most':>9} {'TFLOP/s':>8} "
          f"{'TB/s':>6}  peers")
    for shape in options.shapes:
        E, _, H, I = SHAPES[shape]
        witan = [time_witan(options.witan, shape, rows, options.repeat, options.out)]
        rounds = []
        for _ in range(options.rounds):
            rounds.append({r: time_peers(shape, r, options.repeat) for r in rows})
            torch.cuda.empty_cache()
            witan.append(time_witan(options.witan, shape, rows, options.repeat, options.out))
        for r in rows:
            times = [t[r] for t in witan]
            ms = statistics.median(times)
            peers = {name: [p[r][name] for p in rounds] for name in rounds[0][r]}
            entry = {"shape": shape, "rows_per_expert": r, "witan_ms": times,
                     "tflops": 6.0 * E * r * H * I / ms * 1e-9,
                     "weight_tb_per_s": 6.0 * E * H * I / ms * 1e-9, "peers_ms": peers}
            results.append(entry)
            text = "  ".join(f"{name} {statistics.median(t):.3f} ({statistics.median(t) / ms:.2f}x)"
                             for name, t in peers.items() if None not in t)
            print(f"  {shape:16} {E:4d} {r:6d} {ms:9.3f} {min(times):9.3f} {max(times):9.3f} "
                  f"{entry['tflops']:8.1f} {entry['weight_tb_per_s']:6.2f}  {text}", flush=True)
    (options.out / "peers.json").write_text(json.dumps({
        "schema": "witan-peers-2", "device": torch.cuda.get_device_name(),
        "torch": torch.__version__, "triton": None if triton is None else triton.__version__,
        "results": results}, indent=1))


if __name__ == "__main__":
    main()
