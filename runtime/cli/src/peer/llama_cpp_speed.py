"""One measurement with llama.cpp: a task as JSON on standard input, tokens a second as JSON on standard output."""

import ctypes
import json
import sys
import time

import llama_cpp as llama

BATCH = 512


def decode(context, tokens):
    array = (llama.llama_token * len(tokens))(*tokens)
    if llama.llama_decode(context, llama.llama_batch_get_one(array, len(tokens))) != 0:
        raise SystemExit("llama_decode failed")


def main():
    task = json.load(sys.stdin)
    llama.llama_backend_init()
    log = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(log, ctypes.c_void_p(0))
    options = llama.llama_model_default_params()
    options.use_extra_bufts = task["repack"]
    model = llama.llama_model_load_from_file(task["model"].encode(), options)
    parameters = llama.llama_context_default_params()
    parameters.n_ctx = len(task["context"]) + len(task["prompt"]) + len(task["forced"]) + 16
    parameters.n_batch = parameters.n_ubatch = BATCH
    parameters.n_threads = parameters.n_threads_batch = task["threads"]
    context = llama.llama_init_from_model(model, parameters)
    decode(context, task["prompt"][:1])
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    for first in range(0, len(task["context"]), BATCH):
        decode(context, task["context"][first : first + BATCH])
    llama.llama_synchronize(context)
    start = time.perf_counter()
    for first in range(0, len(task["prompt"]), BATCH):
        decode(context, task["prompt"][first : first + BATCH])
    llama.llama_get_logits(context)
    middle = time.perf_counter()
    for token in task["forced"]:
        decode(context, [token])
        llama.llama_get_logits(context)
    end = time.perf_counter()
    speed = {
        "prefill": len(task["prompt"]) / (middle - start),
        "decode": len(task["forced"]) / max(end - middle, 1e-9),
    }
    print(json.dumps(speed))


main()
