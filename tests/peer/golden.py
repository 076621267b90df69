"""Golden outputs of llama.cpp for a real model, as JSON: tokens of texts, greedy continuations with margins, best logits.

The tokens are of the model, the rest of FLOATS, which `widen.py` makes of it: there llama.cpp rounds no activations.
"""

import argparse
import json

import numpy as np

from greedy import PROMPTS, continuation
from llama import Model

# Beside those of the fixture: what SentencePiece vocabularies treat otherwise.
TEXTS = [
    " leading and trailing ",
    "two  three   four    spaces",
    "\ttabs\t\tand\n\n\nlines\r\n",
    "a\u2581b \u2581\u2581 c",
    "> </ > < <table><td>1</td></table>",
    "<start_of_turn>user\nhi<end_of_turn>\n<bos><unused3><0x41>",
    "\u0000\u0001\u007f\ufeff\u200d\u00a0\u3000",
    "Stra\u00dfe nai\u0308ve \ud55c\uad6d\uc5b4 \u65e5\u672c\u8a9e \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \U0001f469\u200d\U0001f680",
    "1234567890 3.14159 0x1F 1e-9",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "if(x<=y&&!z){return x->y[0];} // " + "=" * 70,
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("floats")
    parser.add_argument("--texts", help="a JSON file with more texts under `texts`")
    parser.add_argument("--count", type=int, default=32)
    arguments = parser.parse_args()
    texts = list(TEXTS)
    if arguments.texts:
        with open(arguments.texts) as file:
            texts += json.load(file)["texts"]
    model = Model(arguments.model, context=64)
    tokens = [
        {
            "text": text,
            "as_text": model.tokenize(text, begin=False),
            "parse": model.tokenize(text, special=True, begin=False),
        }
        for text in texts
    ]
    del model
    model = Model(arguments.floats, context=1024, flash=False)
    greedy = []
    for prompt in PROMPTS:
        found = continuation(model, prompt, arguments.count)
        model.clear()
        logits = model.append(found["prompt_ids"])
        best = [int(token) for token in np.argsort(-logits)[:8]]
        greedy.append({**found, "best": best, "logits": [round(float(logits[token]), 4) for token in best]})
    print(json.dumps({"tokens": tokens, "greedy": greedy}, ensure_ascii=True, indent=1))


if __name__ == "__main__":
    main()
