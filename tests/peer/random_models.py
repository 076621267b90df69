"""Models of random shapes and weights, as transformers computes them and as `membrane logits --reference` does.

    pip install torch transformers
    random_models.py PATH/TO/membrane [ARCHITECTURE ...] [--seeds 1-8]

Of each architecture and seed a small model is drawn: widths, heads, experts, windows, rotary positions, ties. It is written as
transformers writes it, read back, and run on prompts of 1, 7, 64 and 150 tokens. The status is 1 if logits are further apart than
2e-3 (latent attention: 5e-3) times the largest logit above 1. A difference that begins at one position is mostly a choice between
equals, of a router or of an index: such a model says nothing, and `--margins` prints how near the choices were.
"""

import argparse
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers

VOCABULARY = 1024
PROMPTS = [1, 7, 64, 150]
MAX_ABS, MAX_ABS_LATENT = 2e-3, 5e-3


def base(draw):
    """What every decoder has."""
    kv_heads, group = draw([1, 2, 4]), draw([1, 2, 3, 4])
    heads = kv_heads * group
    return {
        "vocab_size": VOCABULARY, "hidden_size": heads * draw([16, 32, 48]), "num_hidden_layers": draw([2, 3, 4]),
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "max_position_embeddings": draw([512, 4096]),
        "rms_norm_eps": draw([1e-5, 1e-6]), "tie_word_embeddings": draw([True, False]), "intermediate_size": draw([96, 256, 352]),
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None,
    }  # fmt: skip


def rope(draw, kinds=("default", "yarn", "linear")):
    kind = draw(kinds)
    group = {"rope_type": kind, "rope_theta": draw([1e4, 5e5, 1e7])}
    if kind == "yarn":
        group |= {"factor": draw([2.0, 8.0]), "original_max_position_embeddings": draw([32, 64])}
        group |= draw([{}, {"beta_fast": 16.0, "beta_slow": 2.0}])
    if kind == "linear":
        group["factor"] = draw([2.0, 8.0])
    if kind == "llama3":
        group |= {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    return {"rope_parameters": group}


def axes(draw, pairs, **more):
    """Rotary positions of several axes, which share the pairs."""
    third = pairs // 3
    group = {"rope_type": "default", "rope_theta": draw([1e6, 5e6]), "mrope_section": [pairs - 2 * third, third, third]}
    return {"rope_parameters": group | more}


def mixture(draw, experts="num_experts"):
    count = draw([4, 8, 16, 33, 60])
    return {experts: count, "num_experts_per_tok": draw([k for k in (1, 2, 4, 6) if k < count]), "moe_intermediate_size": draw([32, 48, 96])}


def hybrid(draw):
    key_heads = draw([1, 2, 4])
    layers = draw([4, 6, 8])
    kinds = [draw(["linear_attention", "linear_attention", "full_attention"]) for _ in range(layers)]
    return {
        "num_hidden_layers": layers, "linear_num_key_heads": key_heads, "linear_num_value_heads": key_heads * draw([1, 2, 4]),
        "linear_key_head_dim": draw([16, 32, 64]), "linear_value_head_dim": draw([16, 32]), "linear_conv_kernel_dim": draw([3, 4]),
        "head_dim": draw([32, 64, 96]), "layer_types": kinds,
    }  # fmt: skip


def latent(draw):
    groups = draw([1, 2, 4])
    used = min(groups, draw([1, 2]))
    experts = groups * draw([4, 8])
    scaling = {"rope_type": "default", "rope_theta": 1e4}
    if draw([True, False]):
        scaling |= {"rope_type": "yarn", "factor": draw([4.0, 40.0]), "mscale": 0.707, "mscale_all_dim": 0.707}
        scaling |= {"beta_fast": 32.0, "beta_slow": 1.0, "original_max_position_embeddings": 64}
    heads = draw([2, 4])
    return {
        "num_attention_heads": heads, "num_key_value_heads": heads, "hidden_size": heads * 32, "q_lora_rank": draw([None, 64]),
        "kv_lora_rank": draw([32, 64]), "qk_nope_head_dim": draw([16, 32]), "qk_rope_head_dim": draw([16, 32]), "v_head_dim": draw([32, 64]),
        "moe_intermediate_size": draw([32, 64]), "n_routed_experts": experts, "n_shared_experts": draw([1, 2]), "n_group": groups,
        "topk_group": used, "num_experts_per_tok": min(draw([1, 2, 4]), experts // groups * used), "first_k_dense_replace": draw([0, 1]),
        "rope_parameters": scaling,
    }  # fmt: skip


def windows(draw, layers):
    return {"layer_types": [draw(["sliding_attention", "full_attention"]) for _ in range(layers)], "sliding_window": draw([8, 32])}


def configuration(architecture, draw):
    """The keys of a configuration, and the class that computes it where it is not that of a language model."""
    config, head = base(draw), draw([32, 64, 96])
    if architecture == "llama":
        return config | rope(draw, ("default", "yarn", "linear", "llama3")) | {"head_dim": head}, None
    if architecture == "mixtral":
        own = mixture(draw, "num_local_experts") | {"sliding_window": None, "head_dim": head}
        del own["moe_intermediate_size"]
        return config | rope(draw, ("default", "yarn")) | own, None
    if architecture in ("qwen2", "qwen2_moe"):
        more = mixture(draw) | {"shared_expert_intermediate_size": draw([32, 96])} if architecture == "qwen2_moe" else {}
        return config | rope(draw) | more, None
    if architecture in ("qwen3", "qwen3_moe"):
        more = mixture(draw) | {"norm_topk_prob": True} if architecture == "qwen3_moe" else {}
        return config | rope(draw) | more | {"head_dim": head}, None
    if architecture in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"):
        config |= hybrid(draw)
        part = draw([0.25, 0.5, 1.0])
        if architecture != "qwen3_5_text":
            config |= mixture(draw) | {"shared_expert_intermediate_size": draw([32, 64])}
        if architecture == "qwen3_next":
            scaling = {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": part}
            return config | {"rope_parameters": scaling, "norm_topk_prob": True}, None
        pairs = int(config["head_dim"] * part) // 2
        return config | axes(draw, pairs, partial_rotary_factor=part, mrope_interleaved=True), None
    if architecture == "qwen4_exp_text":
        config |= hybrid(draw) | mixture(draw) | {"shared_expert_intermediate_size": draw([32, 64])}
        others = ["linear_attention", "indexed_attention"]
        kinds = [others[0], *(draw(others) for _ in config["layer_types"][2:]), others[1]]
        part, ratio, length, hashes = draw([0.25, 0.5]), draw([2, 4]), draw([2, 3]), draw([1, 2, 4])
        pairs = int(config["head_dim"] * part) // 2
        # With few heads many blocks score nothing at all, and which of them are chosen is left open.
        index = {"indexer_n_heads": draw([8, 16]), "indexer_kv_heads": 1, "indexer_head_dim": draw([64, 96])}
        index |= {"indexer_compress_ratio": ratio, "indexer_budget": ratio * draw([2, 4, 8])}
        ngrams = {"ple_layer_ids": [1], "ple_embed_dim": (length - 1) * hashes * 16, "ple_conv_kernel_size": draw([2, 4])}
        ngrams |= {"ngram_size": length, "heads_per_ngram": hashes, "ngram_vocab_size_base": draw([53, 500])}
        ngrams |= {"make_ngram_vocab_size_divisible_by": 8, "split_ngram_parts": draw([1, 4])}
        streams = {"hc_count": draw([2, 3, 4]), "hc_lowrank": draw([16, 32]), "output_gate_type": draw([None, "sigmoid", "silu"])}
        config |= {"layer_types": kinds} | index | ngrams | streams
        return config | axes(draw, pairs, partial_rotary_factor=part, mrope_interleaved=True), None
    if architecture == "deepseek_v2":
        return config | latent(draw) | {"topk_method": draw(["greedy", "group_limited_greedy"]), "scoring_func": "softmax"}, None
    if architecture == "deepseek_v3":
        own = {"routed_scaling_factor": 2.5, "rope_interleave": draw([True, False]), "scoring_func": "sigmoid"}
        return config | latent(draw) | own, None
    if architecture == "gpt_oss":
        own = {"num_local_experts": 8, "num_experts_per_tok": draw([1, 2, 4]), "intermediate_size": draw([32, 64]), "head_dim": draw([32, 64])}
        scaling = {"rope_type": "yarn", "rope_theta": 150000.0, "factor": draw([4.0, 32.0]), "beta_fast": 32.0, "beta_slow": 1.0}
        scaling |= {"truncate": draw([True, False]), "original_max_position_embeddings": 64}
        config |= own | windows(draw, config["num_hidden_layers"])
        return config | {"rope_parameters": scaling, "tie_word_embeddings": False}, None
    if architecture == "gemma3_text":
        config |= {"num_hidden_layers": draw([3, 7]), "head_dim": draw([32, 64]), "query_pre_attn_scalar": draw([32, 168])}
        config |= windows(draw, config["num_hidden_layers"])
        full = draw([{"rope_type": "default"}, {"rope_type": "linear", "factor": 8.0}]) | {"rope_theta": 1e6}
        sliding = {"rope_type": "default", "rope_theta": 1e4}
        return config | {"rope_parameters": {"full_attention": full, "sliding_attention": sliding}, "tie_word_embeddings": True}, None
    if architecture in ("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"):
        own = axes(draw, head // 2) | {"hidden_size": config["num_attention_heads"] * head}
        vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2}
        vision |= {"temporal_patch_size": 2, "out_hidden_size": own["hidden_size"]}
        if architecture != "qwen2_5_vl":
            own |= {"head_dim": head}
            own["rope_parameters"]["mrope_interleaved"] = True
            vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
        if architecture == "qwen3_vl_moe":
            own |= mixture(draw)
        name = {"qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL", "qwen3_vl_moe": "Qwen3VLMoe"}[architecture]
        whole = {"text_config": config | own, "vision_config": vision, "tie_word_embeddings": draw([True, False])}
        return whole, getattr(transformers, f"{name}ForConditionalGeneration")
    raise SystemExit(f"{architecture}: not one of {', '.join(ARCHITECTURES)}")


ARCHITECTURES = [
    "llama", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "qwen4_exp_text",
    "deepseek_v2", "deepseek_v3", "gpt_oss", "gemma3_text", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe",
]  # fmt: skip


def fill(model, generator):
    """Weights that neither fade nor explode, and norms, biases and routers that count."""
    with torch.no_grad():
        for name, weight in [*model.named_parameters(), *model.named_buffers()]:
            if "inv_freq" in name or not weight.is_floating_point():
                continue
            noise = torch.randn(weight.shape, generator=generator)
            if "A_log" in name:
                weight.copy_((torch.rand(weight.shape, generator=generator) * 4 + 0.2).log())
            elif "embed" in name:
                weight.copy_(noise * 0.6)
            elif "conv1d" in name:
                weight.copy_(noise * 0.4)
            elif weight.dim() > 1:
                spread = 2.6 if name.endswith(("gate.weight", "router.weight")) else 1.3
                weight.copy_(noise * spread / weight.shape[-1] ** 0.5)
            elif "e_score" in name:
                weight.copy_(noise * 0.1)
            elif "norm" in name:
                weight.add_(noise * 0.2)
            else:
                weight.copy_(noise * 0.5)


def write(architecture, seed, folder):
    """Writes a model; gives prompts and their logits."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    keys, computes = configuration(architecture, random.Random(f"{architecture} {seed}").choice)
    config = transformers.CONFIG_MAPPING[architecture](**keys)
    if computes is None:
        computes, model = transformers.AutoModelForCausalLM, transformers.AutoModelForCausalLM.from_config(config)
    else:
        model = computes._from_config(config)
    fill(model.float(), generator)
    model.to(torch.bfloat16).save_pretrained(folder)
    # Read back, since buffers of rotary positions were rounded with the weights.
    model = computes.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    prompts = [torch.randint(2, 900, (count,), generator=generator) for count in PROMPTS]
    with torch.no_grad():
        return [(ids.tolist(), model(ids[None], use_cache=False).logits[0].numpy()) for ids in prompts], model


def margins(model, ids):
    """Prints for each router and position how far the last chosen expert is ahead of the first that is not, where it is near."""

    def hook(name):
        def near(router, inputs, _):
            scores = (inputs[0].reshape(-1, router.weight.shape[1]).float() @ router.weight.T).softmax(-1)
            best = scores.sort(descending=True).values
            ahead = best[:, chosen - 1] - best[:, chosen]
            print(f"  {name}: {[(i, f'{x:.0e}') for i, x in enumerate(ahead.tolist()) if x < 1e-5]}")

        return near

    chosen = getattr(model.config.get_text_config(), "num_experts_per_tok", 0)
    hooks = [
        module.register_forward_hook(hook(name))
        for name, module in model.named_modules()
        if name.endswith((".gate", ".router")) and hasattr(module, "weight")
    ]
    with torch.no_grad():
        model(torch.tensor(ids)[None], use_cache=False)
    for hooked in hooks:
        hooked.remove()


def logits_of(binary, path, ids, out):
    arguments = ["--reference", "--tokens", ",".join(map(str, ids)), "--out", out]
    done = subprocess.run([binary, "logits", path, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    data = pathlib.Path(out).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    begin, end = json.loads(data[8 : 8 + length])["logits"]["data_offsets"]
    return np.frombuffer(data[8 + length + begin : 8 + length + end], np.float32).reshape(len(ids), -1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("architectures", nargs="*", default=ARCHITECTURES)
    parser.add_argument("--seeds", default="1-4", help="the first and the last")
    parser.add_argument("--margins", action="store_true")
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition("-")
    transformers.logging.set_verbosity_error()
    failed = False
    for architecture in arguments.architectures or ARCHITECTURES:
        for seed in range(int(first), int(last or first) + 1):
            with tempfile.TemporaryDirectory() as root:
                folder, out = pathlib.Path(root, "model"), pathlib.Path(root, "logits.safetensors")
                passes, model = write(architecture, seed, folder)
                bar = MAX_ABS_LATENT if architecture.startswith("deepseek") else MAX_ABS
                apart = []
                for ids, wanted in passes:
                    apart.append(float(np.abs(logits_of(arguments.binary, folder, ids, out) - wanted).max()))
                    failed |= not apart[-1] <= bar * max(1.0, np.abs(wanted).max())
                print(f"{architecture} {seed}:", " ".join(f"{x:.1e}" for x in apart), flush=True)
                if arguments.margins:
                    margins(model, passes[-1][0])
    sys.exit(failed)


if __name__ == "__main__":
    main()
