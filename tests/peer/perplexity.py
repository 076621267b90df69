"""Perplexity of a text in llama.cpp, window by window as its own tool cuts it, and beside `membrane eval perplexity`.

The tool itself is not in the Python package. Windows are of `--ctx` tokens, each by itself, and the tokens of its second half are
scored.
"""

import argparse
import ctypes
import json
import math
import pathlib
import subprocess
import sys

import llama_cpp as llama
import numpy as np

from every_type import importances, matrices_of
from llama import Model


def window_logits(model, window, first):
    """Logits behind all tokens of a window but the last, from token `first` on."""
    model.clear()
    batch = llama.llama_batch_init(len(window), 0, 1)
    batch.n_tokens = len(window)
    for i, token in enumerate(window):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, i, 1, 0
        batch.logits[i] = i >= first
    if llama.llama_decode(model.context, batch) != 0:
        raise SystemExit("llama_decode failed")
    rows = len(window) - 1 - first
    pointer = llama.llama_get_logits_ith(model.context, first)
    logits = np.ctypeslib.as_array(pointer, shape=(rows, model.vocab_size)).astype(np.float64)
    llama.llama_batch_free(batch)
    return logits


def surprises(logits, targets):
    logits = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(targets)), targets]


def perplexity(path, text, context, windows, threads):
    model = Model(path, context, threads, batch=context)
    begins = llama.llama_vocab_get_add_bos(model.vocab)
    begin = [llama.llama_vocab_bos(model.vocab)] if begins else []
    tokens = model.tokenize(text[:-1] if text.endswith("\n") else text)
    count, first = len(tokens) // context, context // 2
    found = []
    for number in range(min(count, windows or count)):
        window = tokens[number * context : (number + 1) * context]
        window = begin + window[1:] if begins else window
        found.append(surprises(window_logits(model, window, first), window[first + 1 :]))
    found = np.concatenate(found)
    value = math.exp(found.mean())
    return {"perplexity": value, "error": found.std() / math.sqrt(len(found) - 1) * value, "scored": len(found)}


def of_membrane(binary, path, text, arguments):
    command = [binary, "eval", "perplexity", path, "--file", text, "--ctx", str(arguments.ctx), "--json"]
    command += ["--windows", str(arguments.windows)] if arguments.windows else []
    command += ["--threads", str(arguments.threads)] if arguments.threads else []
    command += ["--reference"] if arguments.reference else []
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{run.stderr}")
    return json.loads(run.stdout)


def quantised(source, kind, folder):
    """The model in another type by llama.cpp's quantiser, e.g. Q4_K_M. All inputs of a matrix have the same importance."""
    out = folder / f"{pathlib.Path(source).stem}.{kind}.gguf"
    parameters = llama.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama, "LLAMA_FTYPE_ALL_F32" if kind == "F32" else f"LLAMA_FTYPE_MOSTLY_{kind}")
    parameters.allow_requantize = True
    if kind.startswith(("IQ1", "IQ2", "IQ3")) or kind in ("Q2_K", "Q2_K_S"):
        parameters.imatrix, kept = importances([(name, shape[0]) for name, shape, _ in matrices_of(source)], lambda: 1.0)
    silent = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    if llama.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(parameters)) != 0:
        return None
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--windows", type=int, help="at most so many")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--against", metavar="MEMBRANE", help="the membrane binary to compare with")
    parser.add_argument("--reference", action="store_true", help="membrane computes with f32 activations")
    parser.add_argument("--types", nargs="*", help="types that llama.cpp's quantiser makes of the model first")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("."), help="where it puts them")
    parser.add_argument("--widened", action="store_true", help="also llama.cpp on the same weights as 32-bit floats")
    parser.add_argument("--bound", type=float, default=0.5, help="per cent by which the two may differ")
    arguments = parser.parse_args()
    text = pathlib.Path(arguments.text).read_bytes().decode()
    wrong = 0
    for kind in arguments.types or [None]:
        path = quantised(arguments.model, kind, arguments.folder) if kind else arguments.model
        if path is None:
            print(json.dumps({"type": kind, "not made": "llama.cpp's quantiser refuses"}), flush=True)
            continue
        theirs = perplexity(path, text, arguments.ctx, arguments.windows, arguments.threads)
        result = {"model": str(path), "llama.cpp": theirs}
        if arguments.widened:
            floats = quantised(path, "F32", arguments.folder)
            widened = perplexity(floats, text, arguments.ctx, arguments.windows, arguments.threads)
            floats.unlink()
            result["widened"] = widened
        if arguments.against:
            ours = of_membrane(arguments.against, str(path), arguments.text, arguments)
            result["membrane"] = ours
            result["per_cent"] = 100 * (ours["perplexity"] / theirs["perplexity"] - 1)
            if arguments.widened:
                result["per_cent_of_widened"] = 100 * (ours["perplexity"] / widened["perplexity"] - 1)
            wrong += abs(result["per_cent"]) > arguments.bound or ours["scored"] != theirs["scored"]
        print(json.dumps(result), flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
