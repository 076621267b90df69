"""Writes a model with the same weights as 32-bit floats, on which llama.cpp rounds no activations to 8 bits."""

import argparse
import ctypes
import os

import llama_cpp as llama


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("out")
    arguments = parser.parse_args()
    parameters = llama.llama_model_quantize_default_params()
    parameters.ftype = llama.LLAMA_FTYPE_ALL_F32
    parameters.allow_requantize = True
    source, target = os.fsencode(arguments.model), os.fsencode(arguments.out)
    if llama.llama_model_quantize(source, target, ctypes.byref(parameters)) != 0:
        raise SystemExit(f"{arguments.model}: llama.cpp can't convert it")


if __name__ == "__main__":
    main()
