"""Blocks of every quantised type and the floats that ggml makes of them, as a safetensors file.

For each type `TYPE.bytes` and `TYPE.floats`: a third are what ggml's quantiser makes of random numbers, the others random
bytes. The fixture `tests/fixtures/blocks.safetensors` is its output without options; `cargo test --workspace --release
--test blocks` reads that one, and in its place the file that `MEMBRANE_BLOCKS` names.
"""

import argparse
import ctypes
import json
import pathlib
import struct

import llama_cpp
import numpy as np

# Name and number of each type that a weight may have, elements and bytes of a block.
TYPES = {
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q2_K": (10, 256, 84),
    "Q3_K": (11, 256, 110),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "IQ2_XXS": (16, 256, 66),
    "IQ2_XS": (17, 256, 74),
    "IQ3_XXS": (18, 256, 98),
    "IQ1_S": (19, 256, 50),
    "IQ4_NL": (20, 32, 18),
    "IQ3_S": (21, 256, 110),
    "IQ2_S": (22, 256, 82),
    "IQ4_XS": (23, 256, 136),
    "IQ1_M": (29, 256, 56),
    "TQ1_0": (34, 256, 54),
    "TQ2_0": (35, 256, 66),
    "MXFP4": (39, 32, 17),
    "NVFP4": (40, 64, 36),
    "Q1_0": (41, 128, 18),
    "Q2_0": (42, 64, 18),
}


def library():
    """ggml's own functions, which the binding does not declare."""
    folder = pathlib.Path(llama_cpp.__file__).parent / "lib"
    ggml = ctypes.CDLL(str(folder / "libggml-base.so"))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    floats = ctypes.POINTER(ctypes.c_float)
    number = ctypes.c_int64
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, floats, ctypes.c_void_p, number, number, number, floats]
    return ggml


def pointer(array):
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def quantised(ggml, number, row_bytes, count, rng):
    """`count` random weights, with random importance: some types can't be made without."""
    x = rng.normal(0, 0.02, count).astype(np.float32)
    importance = rng.uniform(0.1, 2.0, count).astype(np.float32)
    out = np.zeros(row_bytes, np.uint8)
    size = ggml.ggml_quantize_chunk(number, pointer(x), out.ctypes.data, 0, 1, count, pointer(importance))
    assert size == row_bytes, (number, size, row_bytes)
    return out


def dequantised(ggml, name, blocks, count):
    out = np.zeros(count, np.float32)
    function = getattr(ggml, "dequantize_row_" + (name[:-1].lower() + "K" if name.endswith("_K") else name.lower()))
    function.restype = None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    function(blocks.ctypes.data, out.ctypes.data, count)
    return out


def write_safetensors(path, tensors):
    header, data = {}, b""
    kinds = {np.dtype(np.uint8): "U8", np.dtype(np.float32): "F32"}
    for name, array in tensors.items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": kinds[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--elements", type=int, default=256, help="a third of the elements of each type, a multiple of 256")
    parser.add_argument("--seed", type=int, default=4)
    arguments = parser.parse_args()
    ggml = library()
    rng = np.random.default_rng(arguments.seed)
    tensors = {}
    # Bytes before floats, so that the floats lie at multiples of four.
    for name, (number, elements, size) in TYPES.items():
        bytes_of_third = arguments.elements // elements * size
        made = quantised(ggml, number, bytes_of_third, arguments.elements, rng)
        tensors[f"{name}.bytes"] = np.concatenate([made, rng.integers(0, 256, 2 * bytes_of_third, dtype=np.uint8)])
    for name in TYPES:
        tensors[f"{name}.floats"] = dequantised(ggml, name, tensors[f"{name}.bytes"], 3 * arguments.elements)
    write_safetensors(arguments.out, tensors)


if __name__ == "__main__":
    main()
