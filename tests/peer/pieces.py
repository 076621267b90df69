"""What llama.cpp makes of texts and of its own tokens in a vocabulary of SentencePiece, as JSON, one text a line.

    MEMBRANE_PIECES=FILE cargo test --workspace --release --test space_prefix
    pieces.py FILE

The first writes the model whose vocabulary is meant; the fixture `tests/fixtures/golden/pieces.json` is the output of the second.
"""

import argparse
import ctypes
import json
import os

import llama_cpp as llama

from golden import TEXTS

# Beginnings, spaces and what stands behind tokens that are found by their text.
MORE = [
    "",
    "Hello",
    " Hello",
    "  Hello world",
    "\nHello",
    "the model runs",
    "<s>",
    "<s>the model",
    "<s> the model",
    "<s>[INST] What is it? [/INST] It is a plugin.</s>[INST] And the host? [/INST]",
    "<s><s>the",
    "</s>\n<|turn|>user\nthe host</s>\n<|turn|>model\n",
    "the<|turn|>",
    "a tool<tool>the tool<tool> the tool",
    "<tool>",
    "<unk>the",
]


class Vocabulary:
    def __init__(self, path):
        self._log = llama.llama_log_callback(lambda level, text, data: None)
        llama.llama_log_set(self._log, ctypes.c_void_p(0))
        llama.llama_backend_init()
        parameters = llama.llama_model_default_params()
        parameters.vocab_only = True
        self.model = llama.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self.model:
            raise SystemExit(f"{path}: llama.cpp can't load it")
        self.vocab = llama.llama_model_get_vocab(self.model)

    def tokenize(self, text, special, begin=False):
        raw = text.encode()
        ids = (llama.llama_token * (len(raw) + 16))()
        count = llama.llama_tokenize(self.vocab, raw, len(raw), ids, len(ids), begin, special)
        return list(ids[:count])

    def detokenize(self, ids):
        array = (llama.llama_token * len(ids))(*ids)
        buffer = ctypes.create_string_buffer(16 * len(ids) + 16)
        count = llama.llama_detokenize(self.vocab, array, len(ids), buffer, len(buffer), False, True)
        return buffer.raw[:count].decode(errors="replace")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    vocabulary = Vocabulary(parser.parse_args().model)
    lines = []
    for text in TEXTS + MORE:
        as_text = vocabulary.tokenize(text, special=False)
        parse = vocabulary.tokenize(text, special=True)
        begun = vocabulary.tokenize(text, special=False, begin=True)
        line = {"text": text, "as_text": as_text, "parse": parse, "begun": begun, "whole": vocabulary.detokenize(as_text)}
        lines.append(json.dumps(line))
    print("[\n" + ",\n".join(lines) + "\n]")


if __name__ == "__main__":
    main()
