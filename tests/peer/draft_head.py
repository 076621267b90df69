"""What the head for multi-token prediction of a Qwen3.5 mixture says, by its formula in numpy, in double precision.

    draft_head.py FOLDER GOLDEN.safetensors OUT.json

FOLDER is a published checkpoint in BF16 whose experts are fused; GOLDEN has of a prompt `p7.input_ids` and the hidden states
`p7.final_hidden` that another implementation computes (transformers has none for the head itself). OUT gets the logits of the head
behind each token of the prompt but the first, chained twice more behind the last. `tests/tests/speculation/heads.rs` compares.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np


def read(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, info in json.loads(data[8 : 8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        raw = data[8 + length + begin : 8 + length + end]
        if info["dtype"] == "BF16":
            values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        elif info["dtype"] == "F32":
            values = np.frombuffer(raw, np.float32).astype(np.float64)
        else:
            values = np.frombuffer(raw, {"I32": np.int32, "I64": np.int64}[info["dtype"]])
        tensors[name] = values.reshape(info["shape"])
    return tensors


def main():
    folder, golden, out = map(Path, sys.argv[1:])
    weights = {}
    for shard in sorted(folder.glob("*.safetensors")):
        weights |= read(shard)
    config = json.loads((folder / "config.json").read_text())["text_config"]
    prompt = read(golden)
    ids = [int(token) for token in prompt["p7.input_ids"]]
    head = Head(config, weights)
    states, following = list(prompt["p7.final_hidden"][:-1]), ids[1:]
    logits = []
    rows = head.run(following, states)
    logits += [head.logits(row) for row in rows]
    chained = []
    for _ in range(2):
        chained.append(int(np.argmax(logits[-1])))
        states, following = states + [rows[-1]], following + [chained[-1]]
        rows = head.run(following, states)
        logits.append(head.logits(rows[-1]))
    result = {"input_ids": ids, "chained": chained, "logits": [[round(x, 5) for x in row] for row in logits]}
    out.write_text(json.dumps(result) + "\n")


class Head:
    def __init__(self, config, weights):
        self.config, self.weights = config, weights
        self.embedding = weights[next(name for name in weights if name.endswith("embed_tokens.weight"))]

    def logits(self, row):
        return self.weights["lm_head.weight"] @ row

    def weight(self, name):
        return self.weights[f"mtp.layers.0.{name}.weight"]

    def norm(self, x, weight):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + self.config["rms_norm_eps"]) * (1 + weight)

    def run(self, tokens, states):
        """The rows of the head after its norm, for hidden states and the tokens behind them."""
        embedded = self.norm(self.embedding[tokens], self.weights["mtp.pre_fc_norm_embedding.weight"])
        states = self.norm(np.stack(states), self.weights["mtp.pre_fc_norm_hidden.weight"])
        x = np.concatenate([embedded, states], -1) @ self.weights["mtp.fc.weight"].T
        x = x + self.attention(self.norm(x, self.weight("input_layernorm")))
        x = x + self.mixture(self.norm(x, self.weight("post_attention_layernorm")))
        return self.norm(x, self.weights["mtp.norm.weight"])

    def attention(self, x):
        config, count = self.config, len(x)
        heads, kv_heads, dim = (config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
        both = (x @ self.weight("self_attn.q_proj").T).reshape(count, heads, 2, dim)
        gate = both[:, :, 1].reshape(count, -1)
        q = self.rotate(self.norm(both[:, :, 0], self.weight("self_attn.q_norm")))
        k = (x @ self.weight("self_attn.k_proj").T).reshape(count, kv_heads, dim)
        k = self.rotate(self.norm(k, self.weight("self_attn.k_norm")))
        v = (x @ self.weight("self_attn.v_proj").T).reshape(count, kv_heads, dim)
        mixed = np.zeros((count, heads, dim))
        for head in range(heads):
            shared = head // (heads // kv_heads)
            scores = q[:, head] @ k[:, shared].T / np.sqrt(dim)
            scores[np.triu_indices(count, 1)] = -np.inf
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            mixed[:, head] = scores / scores.sum(-1, keepdims=True) @ v[:, shared]
        return (mixed.reshape(count, -1) * sigmoid(gate)) @ self.weight("self_attn.o_proj").T

    def rotate(self, x):
        rope = self.config["rope_parameters"]
        dims = int(x.shape[-1] * rope["partial_rotary_factor"])
        angles = np.outer(np.arange(len(x)), rope["rope_theta"] ** (-np.arange(0, dims, 2) / dims))[:, None]
        low, high, rest = x[..., : dims // 2], x[..., dims // 2 : dims], x[..., dims:]
        sin, cos = np.sin(angles), np.cos(angles)
        return np.concatenate([low * cos - high * sin, high * cos + low * sin, rest], -1)

    def mixture(self, x):
        scores = x @ self.weight("mlp.gate").T
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        gates_and_ups = self.weights["mtp.layers.0.mlp.experts.gate_up_proj"]
        downs = self.weights["mtp.layers.0.mlp.experts.down_proj"]
        shared = [self.weight(f"mlp.shared_expert.{part}_proj") for part in ("gate", "up", "down")]
        out = unit(x, *shared) * sigmoid(x @ self.weight("mlp.shared_expert_gate").T)
        for row, score in enumerate(scores):
            chosen = np.argsort(-score)[: self.config["num_experts_per_tok"]]
            for expert in chosen:
                gate, up = np.split(gates_and_ups[expert], 2)
                out[row] += score[expert] / score[chosen].sum() * unit(x[row], gate, up, downs[expert])
        return out


def unit(x, gate, up, down):
    inner = x @ gate.T
    return (inner * sigmoid(inner) * (x @ up.T)) @ down.T


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


main()
