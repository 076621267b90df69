"""Folders as other programs quantise them, and `membrane logits --reference` beside transformers on the numbers that they stand for.

    pip install torch transformers llmcompressor nvidia-modelopt auto-round amd-quark
    quantised_folders.py PATH/TO/membrane [WRITER:SCHEME ...] [--architecture qwen3_moe]

A model of random weights is quantised and written by the program itself, by rounding to nearest and without a hub. What its numbers are is
said by compressed-tensors for folders of llmcompressor, and by AutoRound for integers (its `fake` form); floats of the others
are multiplied by their scales here. A scheme of AutoRound may have a form and flags behind it: `autoround:W4A16:auto_awq:sym=false`.
The status is 1 if logits are further apart than 2e-3, or a folder could not be written or read.
"""

import argparse
import copy
import functools
import json
import pathlib
import shutil
import sys
import tempfile
import unittest.mock

import numpy as np
import random_models
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

ALL = [
    *(f"llmcompressor:{scheme}" for scheme in ("W4A16", "W4A16_ASYM", "W8A16", "W8A8", "W4AFP8", "FP8_DYNAMIC", "FP8_BLOCK")),
    *(f"llmcompressor:{scheme}" for scheme in ("NVFP4A16", "MXFP4A16", "MXFP8A16")),
    *(f"modelopt:{scheme}" for scheme in ("FP8_DEFAULT", "FP8_2D_BLOCKWISE_WEIGHT_ONLY", "FP8_PER_CHANNEL_PER_TOKEN", "NVFP4_DEFAULT")),
    *(f"modelopt:{scheme}" for scheme in ("NVFP4_MLP_WEIGHT_ONLY", "W4A8_NVFP4_FP8", "MXFP4_DEFAULT", "MXFP8_DEFAULT")),
    *(f"autoround:{scheme}:auto_round" for scheme in ("W2A16", "W3A16", "W4A16", "W8A16", "MXFP4", "MXFP8")),
    *(f"autoround:W4A16:{form}" for form in ("auto_gptq", "auto_awq", "auto_round:sym=false")),
    *(f"quark:{scheme}" for scheme in ("fp8", "ptpc_fp8", "mxfp4_weight_only", "mxfp4_fp8", "nvfp4")),
]  # fmt: skip
PROMPTS = [list(range(5, 12)), [i * 37 % 900 + 2 for i in range(64)]]
MAX_ABS = 2e-3
FLOAT4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def source(architecture, folder):
    """A model whose matrices are wide enough for all blocks and groups, and a tokenizer beside it."""
    drawn = random_models.configuration

    def wide(architecture, draw):
        keys, computes = drawn(architecture, draw)
        keys |= {"hidden_size": 256, "intermediate_size": 384, "head_dim": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
        if "moe_intermediate_size" in keys:
            keys["moe_intermediate_size"] = 128
        return keys, computes

    random_models.configuration = wide
    random_models.write(architecture, 7, folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(random_models.VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", pad_token="w0").save_pretrained(folder)


def model(folder, dtype=torch.float32):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def by_llmcompressor(scheme, folder, out):
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier

    kept = ["lm_head", "re:.*mlp.gate$", "re:.*shared_expert_gate$"]
    quantised = model(folder, torch.bfloat16)
    oneshot(model=quantised, recipe=QuantizationModifier(targets="Linear", scheme=scheme, ignore=kept))
    quantised.save_pretrained(out, save_compressed=True)


def by_modelopt(scheme, folder, out):
    import modelopt.torch.quantization as quantization
    from modelopt.torch.export import export_hf_checkpoint

    def calibrate(quantised):
        for prompt in PROMPTS:
            quantised(torch.tensor(prompt)[None])

    config = copy.deepcopy(getattr(quantization, f"{scheme}_CFG"))
    quantised = quantization.quantize(model(folder, torch.bfloat16), config, calibrate)
    with torch.inference_mode():
        export_hf_checkpoint(quantised, export_dir=out)


def by_autoround(scheme, folder, out):
    from auto_round import AutoRound

    name, form, *flags = scheme.split(":")
    flags = {key: json.loads(value) for key, value in (flag.split("=") for flag in flags)}
    floats = torch.float32 if form == "fake" else torch.bfloat16
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rounding = AutoRound(model(folder, floats), tokenizer, scheme=name, iters=0, disable_opt_rtn=True, **flags)
    rounding.quantize_and_save(output_dir=out, format=form)
    (inner,) = (path.parent for path in pathlib.Path(out).rglob("config.json"))
    return inner


def by_quark(scheme, folder, out):
    from quark.torch import LLMTemplate, ModelQuantizer, export_safetensors
    from quark.torch.utils.llm import preprocess_for_quantization

    quantised = model(folder, torch.bfloat16)
    preprocess_for_quantization(quantised)
    quantiser = ModelQuantizer(LLMTemplate.get(quantised.config.model_type).get_config(scheme=scheme))
    quantised = quantiser.freeze(quantiser.quantize_model(quantised, [torch.tensor(prompt)[None] for prompt in PROMPTS]))
    with torch.no_grad():
        export_safetensors(quantised, str(out))


def tensors_of(folder):
    return functools.reduce(lambda all, file: all | load_file(file), sorted(pathlib.Path(folder).glob("*.safetensors")), {})


def told_by_compressed_tensors(folder):
    """All matrices as that library decompresses them, with scales in single precision."""
    import compressed_tensors.compressors.nvfp4.base as float4
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    exact = functools.partial(float4.unpack_fp4_from_uint8, dtype=torch.float32)
    said = json.loads(pathlib.Path(folder, "config.json").read_text())["quantization_config"]
    (group,) = said["config_groups"].values()
    form = group.pop("format", None) or said["format"]
    modules, floats = {}, {}
    for name, tensor in tensors_of(folder).items():
        module, _, part = name.rpartition(".")
        modules.setdefault(module, {})[part] = tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
    with unittest.mock.patch.object(float4, "unpack_fp4_from_uint8", exact):
        for module, parts in modules.items():
            if any(part.startswith("weight_") for part in parts):
                parts = BaseCompressor.get_value_from_registry(form).decompress(parts, QuantizationScheme(**group))
            floats |= {f"{module}.{part}": parts[part].float() for part in ("weight", "bias") if part in parts}
    return floats


def multiplied(folder):
    """All matrices, floats times their scales: one, one a row, one a block of 128 by 128, or one for some columns of a row."""
    tensors, floats = tensors_of(folder), {}
    for name, tensor in tensors.items():
        name = name.replace(".weight_packed", ".weight")
        if not name.endswith((".weight", ".bias")):
            continue
        scale = tensors.get(f"{name}_scale")
        if scale is not None:
            if tensor.dtype == torch.uint8:
                tensor = FLOAT4[torch.stack([tensor & 15, tensor >> 4], -1).reshape(tensor.shape[0], -1).long()]
            tensor = tensor.float()
            scale = 2.0 ** (scale.float() - 127) if scale.dtype == torch.uint8 else scale.float()
            rows, columns = tensor.shape
            if scale.dim() == 4:
                scale = scale[:, 0, :, 0].repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
            elif scale.dim() == 1:
                scale = scale[:, None]
            elif scale.dim() == 2:
                scale = scale.repeat_interleave(columns // scale.shape[1], 1)
            tensor = tensor * scale * tensors.get(f"{name}_scale_2", torch.tensor(1.0))
        floats[name] = tensor.float()
    return floats


def compare(binary, kind, folder, root):
    """The greatest difference of logits."""
    writer, _, scheme = kind.partition(":")
    write = {"llmcompressor": by_llmcompressor, "modelopt": by_modelopt, "autoround": by_autoround, "quark": by_quark}[writer]
    written, plain = write(scheme, folder, root / "quantised") or root / "quantised", root / "plain"
    if writer == "autoround" and scheme.startswith("W"):
        name, _, *flags = scheme.split(":")
        plain = by_autoround(":".join([name, "fake", *flags]), folder, plain)
    else:
        floats = told_by_compressed_tensors(written) if writer == "llmcompressor" else multiplied(written)
        plain.mkdir()
        save_file({name: tensor.contiguous() for name, tensor in floats.items()}, plain / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(pathlib.Path(folder, "config.json"), plain)
    computes, apart = model(plain), 0.0
    for prompt in PROMPTS:
        with torch.no_grad():
            wanted = computes(torch.tensor(prompt)[None], use_cache=False).logits[0].numpy()
        found = random_models.logits_of(binary, written, prompt, root / "logits.safetensors")
        apart = max(apart, float(np.abs(found - wanted).max()))
    return apart


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("kinds", nargs="*")
    parser.add_argument("--architecture", default="qwen3_moe")
    arguments = parser.parse_intermixed_args()
    transformers.logging.set_verbosity_error()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        source(arguments.architecture, folder)
        for kind in arguments.kinds or ALL:
            with tempfile.TemporaryDirectory() as root:
                try:
                    apart = compare(arguments.binary, kind, folder, pathlib.Path(root))
                except (Exception, SystemExit) as error:  # some of these programs end the process
                    print(f"{kind}: {type(error).__name__}: {error}", flush=True)
                    failed = True
                    continue
                failed |= not apart <= MAX_ABS
                print(f"{kind}: {apart:.1e}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
