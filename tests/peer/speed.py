"""Prefill and decode speed of llama.cpp on a text, as JSON."""

import argparse
import json
import pathlib
import time

from llama import Model


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--batch", type=int, default=512, help="tokens in a prefill batch")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of prefill")
    parser.add_argument("--decode", type=int, default=64, help="tokens of decode; they are the text's own")
    parser.add_argument("--text", type=pathlib.Path, default=root / "README.md")
    parser.add_argument("--no-mmap", action="store_true", help="read the file into memory instead of mapping it")
    parser.add_argument("--no-repack", action="store_true", help="use the weights where they are mapped")
    arguments = parser.parse_args()
    wanted = arguments.prompt + arguments.decode
    loading = time.perf_counter()
    mmap, repack = not arguments.no_mmap, not arguments.no_repack
    model = Model(arguments.model, wanted + 16, arguments.threads, arguments.batch, mmap, repack)
    loaded = time.perf_counter()
    ids = model.tokenize(arguments.text.read_text())
    while len(ids) < wanted:
        ids += ids
    start = time.perf_counter()
    model.append(ids[: arguments.prompt])
    middle = time.perf_counter()
    for token in ids[arguments.prompt : wanted]:
        model.append([token])
    end = time.perf_counter()
    result = {
        "model": arguments.model,
        "load_seconds": round(loaded - loading, 3),
        "prefill_tokens_per_second": round(arguments.prompt / (middle - start), 2),
        "decode_tokens_per_second": round(arguments.decode / (end - middle), 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
