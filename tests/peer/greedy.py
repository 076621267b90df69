"""Greedy continuations of llama.cpp with margins as JSON lines, and where another engine's part from them."""

import argparse
import json
import subprocess
import sys

import numpy as np

from llama import Model

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n",
    "Water boils at a temperature of",
    "The three most important things in a good letter are",
    "In the year 1969, the first",
    "To make a cup of tea, you first",
    "The difference between weather and climate is that",
    "Dear Professor Lindgren,\n\nThank you for",
    "A prime number is a number that",
]


def continuation(model, prompt, count):
    """Tokens and, for each, the best logit minus the second."""
    model.clear()
    prompt_ids = model.tokenize(prompt)
    logits = model.append(prompt_ids)
    ids, margins = [], []
    for _ in range(count):
        second, best = np.argpartition(logits, -2)[-2:]
        if logits[second] > logits[best]:
            second, best = best, second
        ids.append(int(best))
        margins.append(round(float(logits[best] - logits[second]), 4))
        if model.is_end(ids[-1]):
            break
        logits = model.append([ids[-1]])
    # The token that ends an answer is no text.
    shown = ids[:-1] if ids and model.is_end(ids[-1]) else ids
    return {"prompt": prompt, "prompt_ids": prompt_ids, "ids": ids, "margins": margins, "text": model.text(shown)}


def of_itself(path, threads, prompts, count):
    """For each prompt the text of llama.cpp without flash attention: the same mathematics, other roundings."""
    model = Model(path, context=2048, threads=threads, flash=False)
    return [continuation(model, prompt, count)["text"] for prompt in prompts]


def of_membrane(binary, path, prompt, count):
    """The text that membrane continues the prompt with."""
    command = [binary, "run", path, prompt, "--raw", "--temperature", "0", "-n", str(count), "--json"]
    command += ["--activations", "int16"]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{run.stderr}")
    events = [json.loads(line) for line in run.stdout.splitlines() if line.strip()]
    return "".join(event["text"] for event in events if event.get("event") == "text")


def compare(model, expected, found):
    """None when the texts are equal; else where they part, and the margin of llama.cpp's choice there."""
    if found == expected["text"]:
        return None
    for count in range(len(expected["ids"])):
        if not found.startswith(model.text(expected["ids"][: count + 1])):
            return {"token": count, "margin": expected["margins"][count]}
    return {"token": len(expected["ids"]), "margin": None}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("prompts", nargs="*", default=PROMPTS)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--against", metavar="MEMBRANE", help="the membrane binary to compare with")
    parser.add_argument("--itself", action="store_true", help="compare with llama.cpp without flash attention")
    parser.add_argument("--theirs", metavar="FILE", help="what llama.cpp runs in place of the model: see widen.py")
    arguments = parser.parse_args()
    theirs = arguments.theirs or arguments.model
    prompts = arguments.prompts or PROMPTS
    others = of_itself(theirs, arguments.threads, prompts, arguments.tokens) if arguments.itself else []
    model = Model(theirs, context=2048, threads=arguments.threads)
    equal = itself = 0
    for number, prompt in enumerate(prompts):
        result = continuation(model, prompt, arguments.tokens)
        if arguments.itself:
            result["itself_parts"] = compare(model, result, others[number])
            itself += result["itself_parts"] is None
        if arguments.against:
            found = of_membrane(arguments.against, arguments.model, prompt, arguments.tokens)
            result["membrane"] = found
            result["parts"] = compare(model, result, found)
            equal += result["parts"] is None
        print(json.dumps(result, ensure_ascii=False), flush=True)
    if arguments.against:
        print(f"{equal} of {len(prompts)} continuations are equal", file=sys.stderr)
    if arguments.itself:
        print(f"{itself} of {len(prompts)} are equal to llama.cpp's without flash attention", file=sys.stderr)


if __name__ == "__main__":
    main()
