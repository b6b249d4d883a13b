#!/usr/bin/env python3
"""Make tests/fixtures: tiny MoE blocks in every supported format, with the answers of transformers.

For each fixture the package's own model is built from a tiny configuration, the parameters of one
MoE block are drawn, rounded to the dtype they are stored in, and written under the tensor names
that `save_pretrained` gives them: `layout="experts"` is the form of published checkpoints (one
tensor per expert), `layout="fused"` the form of the package since version 5 (gate_up_proj).
expected.safetensors then holds

    layer_index    I32 [1]     the block to load
    hidden_states  [T, H]      input, in the dtype of the layer
    output         F32 [T, H]  the block's output
    topk_ids       I32 [T, K]  in descending order of the score that chooses
    topk_weights   F32 [T, K]

`output` is computed by the package's module in float64 from the stored weights (its routers turn
their scores to float32, which costs 1e-7) and rounded to float32 once. The same module in float32
must agree, as must a selection of experts written here in numpy. Tokens whose choice hangs on less
than MARGIN are left out, so that ids do not depend on the rounding of a logit.

What is not the package's: MXFP4 blocks and scales are drawn at random and turned into weights by
its convert_moe_packed_tensors; FP8 weights are drawn here and dequantised by the block rule in
numpy, because the package's routine wants dimensions that are multiples of the block.

Run with: Python 3.11, torch 2.15.0 (CPU), transformers 5.23.0, safetensors 0.8.0, numpy 2.4.6.
    python scripts/make_fixtures.py tests/fixtures
Draws are seeded: a run with these versions writes the same bytes.
"""

import json
import pathlib
import shutil
import sys
import tempfile
import zlib

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

TOKENS = 33
MARGIN = 1e-3
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

COMMON = dict(vocab_size=8, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
              max_position_embeddings=64, pad_token_id=None, bos_token_id=None, eos_token_id=None)
MLA = dict(q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8)
DEEPSEEK_V2 = dict(MLA, hidden_size=48, intermediate_size=16, moe_intermediate_size=24,
                   n_routed_experts=8, n_shared_experts=2, num_experts_per_tok=3,
                   num_hidden_layers=2, first_k_dense_replace=1)
DEEPSEEK_V3 = dict(MLA, hidden_size=40, intermediate_size=16, moe_intermediate_size=24,
                   n_routed_experts=16, n_shared_experts=1, num_experts_per_tok=4, n_group=4,
                   topk_group=2, num_hidden_layers=2, first_k_dense_replace=1,
                   routed_scaling_factor=2.5, norm_topk_prob=True)
GPT_OSS = dict(hidden_size=64, intermediate_size=32, num_local_experts=8, num_experts_per_tok=4,
               num_hidden_layers=1, layer_types=["full_attention"])
QWEN2 = dict(hidden_size=48, intermediate_size=16, moe_intermediate_size=24, num_experts=8,
             shared_expert_intermediate_size=56, num_experts_per_tok=4, num_hidden_layers=1)

# name: model_type, stored dtype, layout, layer, options of the configuration, our own options
FIXTURES = {
    "mixtral_f32": ("mixtral", "float32", "experts", 1, dict(
        hidden_size=72, intermediate_size=40, num_local_experts=8, num_experts_per_tok=2,
        num_hidden_layers=2), dict(old_dtype_key=True)),
    "mixtral_fused_bf16": ("mixtral", "bfloat16", "fused", 0, dict(
        hidden_size=48, intermediate_size=40, num_local_experts=8, num_experts_per_tok=2,
        num_hidden_layers=1), {}),
    "qwen2_moe_f16": ("qwen2_moe", "float16", "experts", 0, QWEN2, {}),
    "qwen2_moe_fused_f32": ("qwen2_moe", "float32", "fused", 0,
                            dict(QWEN2, norm_topk_prob=True), {}),
    "qwen3_moe_sharded_bf16": ("qwen3_moe", "bfloat16", "experts", 2, dict(
        hidden_size=48, intermediate_size=16, moe_intermediate_size=40, num_experts=16,
        num_experts_per_tok=8, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[1],
        num_hidden_layers=3), dict(shards=3)),
    "qwen3_moe_fused_f16": ("qwen3_moe", "float16", "fused", 0, dict(
        hidden_size=40, intermediate_size=16, moe_intermediate_size=24, num_experts=16,
        num_experts_per_tok=4, norm_topk_prob=True, num_hidden_layers=1), {}),
    "olmoe_f32": ("olmoe", "float32", "experts", 0, dict(
        hidden_size=40, intermediate_size=24, num_experts=16, num_experts_per_tok=4,
        num_hidden_layers=1), {}),
    "deepseek_v2_greedy_bf16": ("deepseek_v2", "bfloat16", "experts", 1, dict(
        DEEPSEEK_V2, topk_method="greedy", n_group=1, topk_group=1), {}),
    "deepseek_v2_groups_f32": ("deepseek_v2", "float32", "experts", 1, dict(
        DEEPSEEK_V2, topk_method="group_limited_greedy", n_group=4, topk_group=2,
        routed_scaling_factor=2.5), dict(keep_dense=True)),
    "deepseek_v3_f32": ("deepseek_v3", "float32", "experts", 1, DEEPSEEK_V3, {}),
    # Scores that choose are below zero: experts of groups left out must not win with 0.
    "deepseek_v3_negative_f32": ("deepseek_v3", "float32", "fused", 1,
                                 dict(DEEPSEEK_V3, moe_intermediate_size=8),
                                 dict(correction=(-1.3, -1.1))),
    "deepseek_v3_fused_bf16": ("deepseek_v3", "bfloat16", "fused", 1, DEEPSEEK_V3, {}),
    # Dimensions above 128 and no multiples of it: several blocks, the last ones partial.
    "deepseek_v3_fp8": ("deepseek_v3", "bfloat16", "experts", 1, dict(
        DEEPSEEK_V3, hidden_size=160, moe_intermediate_size=136, n_routed_experts=4,
        num_experts_per_tok=2, n_group=2, topk_group=1), dict(fp8=True)),
    "glm4_moe_f16": ("glm4_moe", "float16", "experts", 1, dict(
        hidden_size=48, intermediate_size=16, moe_intermediate_size=24, n_routed_experts=8,
        n_shared_experts=1, num_experts_per_tok=3, n_group=1, topk_group=1, num_hidden_layers=2,
        first_k_dense_replace=1, routed_scaling_factor=1.5, norm_topk_prob=True), {}),
    "gpt_oss_f32": ("gpt_oss", "float32", "fused", 0,
                    dict(GPT_OSS, hidden_size=48, intermediate_size=24), {}),
    "gpt_oss_bf16": ("gpt_oss", "bfloat16", "fused", 0,
                     dict(GPT_OSS, hidden_size=40, intermediate_size=24), {}),
    "gpt_oss_mxfp4": ("gpt_oss", "bfloat16", "fused", 0, GPT_OSS, dict(mxfp4=True)),
}


def draw_parameters(block, dtype, correction, generator):
    """Draw every parameter so that outputs are of order one and every bias matters."""
    for name, tensor in list(block.named_parameters()) + list(block.named_buffers()):
        stored = dtype
        if name.endswith("e_score_correction_bias"):
            low, high = correction
            value = low + (high - low) * torch.rand(tensor.shape, generator=generator)
            stored = torch.float32
        elif name.endswith("bias"):
            value = torch.randn(tensor.shape, generator=generator)
        else:
            # [out, in]; the experts of gpt-oss are [in, out], and large enough to reach the clamp
            transposed = hasattr(block, "router") and tensor.dim() == 3
            fan_in = tensor.shape[-2 if transposed else -1]
            scale = 2.0 if tensor.dim() == 2 and name.startswith(("gate.", "router.")) else 1.0
            if transposed and "gate_up" in name:
                scale = 3.0
            value = torch.randn(tensor.shape, generator=generator) * (scale / fan_in**0.5)
        tensor.data.copy_(value.to(stored).float())


def quantise_fp8(weight):
    """[out, in] -> e4m3 values, F32 scales per 128x128 block, and the weights these stand for."""
    rows, cols = weight.shape
    grid = [-(-rows // 128), -(-cols // 128)]
    scales = torch.empty(grid)
    wide = torch.empty(rows, cols)
    for i in range(grid[0]):
        for j in range(grid[1]):
            block = (slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128))
            scales[i, j] = weight[block].abs().max() / 448.0
            wide[block] = scales[i, j]
    values = (weight / wide).to(torch.float8_e4m3fn)
    exact = values.float().numpy().astype(np.float64) * wide.numpy().astype(np.float64)
    return values, scales, torch.from_numpy(exact)


def store_fp8(tensors, block, config):
    """Replace the experts' weights by FP8, in the file and (dequantised) in the module."""
    config["quantization_config"] = dict(activation_scheme="dynamic", fmt="e4m3",
                                         quant_method="fp8", weight_block_size=[128, 128])
    exact = {}
    for name in [n for n in tensors if "experts" in n and n.endswith("_proj.weight")]:
        values, scales, exact[name.split(".mlp.")[1]] = quantise_fp8(tensors[name].float())
        tensors[name] = values
        tensors[name + "_scale_inv"] = scales
    block.double()
    for e in range(block.experts.num_experts):
        gate, up, down = (exact[f"experts.{e}.{p}_proj.weight"] for p in ("gate", "up", "down"))
        block.experts.gate_up_proj.data[e] = torch.cat([gate, up])
        block.experts.down_proj.data[e] = down
    for part in ("gate", "up", "down"):
        getattr(block.shared_experts, part + "_proj").weight.data.copy_(
            exact[f"shared_experts.{part}_proj.weight"])


def store_mxfp4(tensors, block, config, generator):
    """Replace the experts' weights by random MXFP4 blocks, and what they mean in the module."""
    config["quantization_config"] = dict(
        modules_to_not_convert=["model.layers.*.self_attn", "model.layers.*.mlp.router",
                                "model.embed_tokens", "lm_head"], quant_method="mxfp4")
    for part in ("gate_up_proj", "down_proj"):
        name = next(n for n in tensors if n.endswith("experts." + part))
        experts, fan_in, fan_out = tensors.pop(name).shape
        blocks = torch.randint(0, 256, (experts, fan_out, fan_in // 32, 16), dtype=torch.uint8,
                               generator=generator)
        # values have rms 2.9; 2^-4 to 2^-2 for a fan-in of 64 reaches the clamp at 7
        scales = torch.randint(123, 126, blocks.shape[:-1], dtype=torch.uint8,
                               generator=generator)
        tensors[name + "_blocks"] = blocks
        tensors[name + "_scales"] = scales
        weight = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
        parameter = getattr(block.experts, part)
        assert weight.shape == parameter.shape
        parameter.data = weight.to(parameter.dtype)


def router_of(block):
    return block.router if hasattr(block, "router") else block.gate


def choose(block, config, logits):
    """Selection in numpy: ids [T,K] in descending order of choice, and the smallest margin."""
    correction = getattr(router_of(block), "e_score_correction_bias", None)
    choice = logits
    if correction is not None:
        choice = 1.0 / (1.0 + np.exp(-logits)) + correction.double().numpy()
    tokens, experts = choice.shape
    margin = np.full(tokens, np.inf)
    groups = getattr(config, "n_group", None) or 1
    if groups > 1:
        runs = -np.sort(-choice.reshape(tokens, groups, -1), axis=-1)
        score = runs[..., 0] if correction is None else runs[..., :2].sum(axis=-1)
        order = np.argsort(-score, axis=-1, kind="stable")
        ranked = np.take_along_axis(score, order, axis=-1)
        margin = ranked[:, config.topk_group - 1] - ranked[:, config.topk_group]
        kept = np.zeros((tokens, groups), bool)
        np.put_along_axis(kept, order[:, : config.topk_group], True, axis=-1)
        choice = np.where(np.repeat(kept, experts // groups, axis=1), choice, -np.inf)
    order = np.argsort(-choice, axis=-1, kind="stable")
    topk = config.num_experts_per_tok
    ranked = np.take_along_axis(choice, order, axis=-1)[:, : min(topk + 1, experts)]
    with np.errstate(invalid="ignore"):
        gaps = -np.diff(ranked, axis=-1)
    return order[:, :topk], np.minimum(margin, np.nan_to_num(gaps, nan=np.inf).min(axis=-1))


def evaluate(block, hidden):
    """The module's output, and its ids and weights sorted by id."""
    with torch.no_grad():
        output = block(hidden[None])
        output = (output[0] if isinstance(output, tuple) else output)[0]
        logits, weights, ids = router_of(block)(hidden)
    by_id = ids.argsort(dim=-1)
    return output, logits, ids.gather(1, by_id).numpy(), weights.gather(1, by_id).numpy()


def expected_of(block, config, dtype, generator):
    """Draw tokens, keep TOKENS of them with margins, and compute the block in float64."""
    hidden = torch.randn(8 * TOKENS, config.hidden_size, generator=generator).to(dtype)
    block.double()
    _, logits, ids_sorted, _ = evaluate(block, hidden.double())
    ids, margin = choose(block, config, logits.double().numpy())
    assert (np.sort(ids, axis=-1) == ids_sorted)[margin > MARGIN].all(), "selection differs"
    kept = np.flatnonzero(margin > MARGIN)[:TOKENS]
    assert len(kept) == TOKENS, "too few tokens with a margin"
    hidden, ids = hidden[kept], ids[kept]
    output, _, ids_sorted, weights_sorted = evaluate(block, hidden.double())
    weights = np.take_along_axis(weights_sorted, np.argsort(np.argsort(ids, -1), -1), -1)
    assert len(np.unique(ids)) == router_of(block).weight.shape[0], "an expert without tokens"

    single, _, single_ids, _ = evaluate(block.float(), hidden.float())
    norm = ((single.double() - output).norm() / output.norm()).item()
    assert (single_ids == ids_sorted).all() and norm < 1e-6, f"float32 differs by {norm}"
    if hasattr(block.experts, "limit"):
        wide = torch.einsum("th,ehi->tei", hidden.float(), block.experts.gate_up_proj)
        clamped = (wide.abs() > block.experts.limit).float().mean().item()
        assert 0.005 < clamped < 0.2, f"the clamp is met by {clamped}"
    rms = output.pow(2).mean().sqrt().item()
    assert 0.1 < rms < 30, f"output rms {rms}"
    return dict(hidden_states=hidden.contiguous(), output=output.float().contiguous(),
                topk_ids=torch.from_numpy(ids.astype(np.int32)),
                topk_weights=torch.from_numpy(weights.astype(np.float32))), rms


def block_tensors(model, layer, layout, keep_dense):
    """The block's tensors under their names in files, and two tensors that are not the block's."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_original_format=layout == "experts")
        tensors = load_file(pathlib.Path(folder) / "model.safetensors")
        config = json.loads((pathlib.Path(folder) / "config.json").read_text())
    wanted = [f"model.layers.{layer}.mlp.", f"model.layers.{layer}.block_sparse_moe.",
              f"model.layers.{layer}.input_layernorm.", "model.norm."]
    if keep_dense:
        wanted.append("model.layers.0.mlp.")
    return {n: t for n, t in tensors.items() if n.startswith(tuple(wanted))}, config


def write_folder(folder, tensors, config, shards):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = names[len(names) * i // shards : len(names) * (i + 1) // shards]
        save_file({n: tensors[n] for n in part}, folder / file, metadata={"format": "pt"})
        weight_map.update({n: file for n in part})
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    index = dict(metadata=dict(total_size=total), weight_map=weight_map)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def make(root, name, model_type, dtype_name, layout, layer, options, own):
    dtype = DTYPES[dtype_name]
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    config = AutoConfig.for_model(model_type, **{**COMMON, **options})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    block = model.model.layers[layer].mlp
    block.experts.config._experts_implementation = "eager"
    draw_parameters(block, dtype, own.get("correction", (0.0, 0.3)), generator)

    tensors, saved = block_tensors(model, layer, layout, own.get("keep_dense", False))
    for n, t in tensors.items():
        tensors[n] = t if n.endswith("e_score_correction_bias") else t.to(dtype)
    saved.pop("dtype", None)
    saved["torch_dtype" if own.get("old_dtype_key") else "dtype"] = dtype_name
    if own.get("fp8"):
        store_fp8(tensors, block, saved)
    if own.get("mxfp4"):
        store_mxfp4(tensors, block, saved, generator)

    expected, rms = expected_of(block, config, dtype, generator)
    expected["layer_index"] = torch.tensor([layer], dtype=torch.int32)
    write_folder(root / name, tensors, saved, own.get("shards", 1))
    save_file(expected, root / name / "expected.safetensors")
    size = sum(f.stat().st_size for f in (root / name).iterdir())
    print(f"{name:26} {size / 1024:7.0f} KiB  output rms {rms:.2f}")
    return size


def main():
    root = pathlib.Path(sys.argv[1])
    total = 0
    for name, fixture in FIXTURES.items():
        shutil.rmtree(root / name, ignore_errors=True)
        total += make(root, name, *fixture)
    print(f"{'total':26} {total / 1024:7.0f} KiB")
    assert total < 3 << 20


if __name__ == "__main__":
    main()
