"""A model in every type that llama.cpp's quantiser makes, against the same weights as 32-bit floats.

For each type the quantiser makes a file of MODEL with all matrices in it, and of that one a file of 32-bit floats by ggml's own
dequantisation. `membrane logits --reference` of the two may differ by rounding alone. Types that want importances get random ones.

With `--speed` no logits are compared, but the medians of prefill and decode in turns with llama.cpp, by `membrane bench`.
"""

import argparse
import ctypes
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

import llama_cpp as llama
import numpy as np

TYPES = [
    "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ1_S", "IQ1_M",
    "IQ2_XXS", "IQ2_XS", "IQ2_M", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4_MOE", "NVFP4", "Q1_0", "Q2_0",
]


def matrices_of(path):
    """Name, dimensions and ggml's number of the type of each matrix in a GGUF file."""
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    with open(path, "rb") as file:

        def number(kind):
            return struct.unpack("<" + kind, file.read(struct.calcsize("<" + kind)))[0]

        def skip(kind):
            if kind == 8:
                file.seek(number("Q"), os.SEEK_CUR)
            elif kind == 9:
                element, count = number("I"), number("Q")
                if element in sizes:
                    file.seek(sizes[element] * count, os.SEEK_CUR)
                else:
                    for _ in range(count):
                        skip(element)
            else:
                file.seek(sizes[kind], os.SEEK_CUR)

        file.seek(8)
        tensors, values = number("Q"), number("Q")
        for _ in range(values):
            skip(8)
            skip(number("I"))
        found = []
        for _ in range(tensors):
            name = file.read(number("Q")).decode()
            shape = [number("Q") for _ in range(number("I"))]
            found.append((name, shape, number("I")))
            number("Q")
    return [tensor for tensor in found if len(tensor[1]) > 1]


def importances(matrices, draw):
    """What the quantiser takes as an importance matrix, of values by `draw`, and what has to live as long."""
    entries = (llama.llama_model_imatrix_data * (len(matrices) + 1))()
    kept = []
    for entry, (name, width) in zip(entries, matrices):
        values = (ctypes.c_float * width)(*(draw() for _ in range(width)))
        kept += [name, values]
        entry.name, entry.data, entry.size = name.encode(), values, width
    return entries, kept


def quantise(source, out, ftype, entries=None):
    parameters = llama.llama_model_quantize_default_params()
    parameters.ftype = ftype
    parameters.allow_requantize = True
    parameters.pure = True
    if entries is not None:
        parameters.imatrix = entries
    return llama.llama_model_quantize(os.fsencode(source), os.fsencode(out), ctypes.byref(parameters)) == 0


def logits(membrane, path, folder, *options):
    out = folder / "logits.safetensors"
    tokens = ",".join(str(5 + 7 * i % 900) for i in range(48))
    command = [membrane, "logits", path, "--tokens", tokens, "--out", out, *options]
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if run.returncode != 0:
        raise SystemExit(f"{path}: {run.stderr}")
    raw = out.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    begin, end = json.loads(raw[8 : 8 + length])["logits"]["data_offsets"]
    return np.frombuffer(raw[8 + length + begin : 8 + length + end], np.float32).astype(np.float64)


def speed(membrane, path, repeat):
    command = [membrane, "bench", path, "--memory", "none", "--prompt", "256", "--decode", "48", "--speculate", "off"]
    command += ["--repeat", str(repeat), "--against", "llama.cpp", "--json"]
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if run.returncode != 0:
        raise SystemExit(f"{path}: {run.stderr}")
    found = json.loads(run.stdout)
    ours, peer = found["runs"][0]["speed"], found["peers"][0]
    ratios = {"prefill_ratio": peer["prefill_ratio"], "decode_ratio": peer["decode_ratio"]}
    return {name: round(value, 2) for name, value in (ours | ratios).items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="rows must be multiples of 256")
    parser.add_argument("membrane", help="the binary")
    parser.add_argument("--types", nargs="*", default=TYPES)
    parser.add_argument("--bound", type=float, default=2e-3, help="largest difference of a logit")
    parser.add_argument("--speed", action="store_true", help="compare speeds with llama.cpp, which `membrane bench` has to find")
    parser.add_argument("--repeat", type=int, default=3, help="pairs of runs for the speeds")
    arguments = parser.parse_args()
    silent = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    matrices = [(name, shape[0]) for name, shape, _ in matrices_of(arguments.model)]
    rng = random.Random(5)
    entries, kept = importances(matrices, lambda: rng.uniform(0.2, 2.0))
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for kind in arguments.types:
            ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{kind}", None)
            made, widened = folder / "made.gguf", folder / "widened.gguf"
            if ftype is None or not quantise(arguments.model, made, ftype, entries):
                print(json.dumps({"type": kind, "not made": "llama.cpp's quantiser refuses"}), flush=True)
                continue
            if arguments.speed:
                print(json.dumps({"type": kind} | speed(arguments.membrane, made, arguments.repeat)), flush=True)
                continue
            if not quantise(made, widened, llama.LLAMA_FTYPE_ALL_F32):
                raise SystemExit(f"{kind}: llama.cpp can't make floats of it")
            wide = logits(arguments.membrane, widened, folder, "--reference")
            reference = logits(arguments.membrane, made, folder, "--reference")
            fast = logits(arguments.membrane, made, folder)
            stored = sorted({number for _, _, number in matrices_of(made)})
            result = {"type": kind, "ggml_types": stored, "max_abs": float(abs(reference - wide).max())}
            result["fast_nmse"] = float(((fast - wide) ** 2).sum() / (wide**2).sum())
            wrong += not result["max_abs"] <= arguments.bound
            print(json.dumps(result), flush=True)
    del kept
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
