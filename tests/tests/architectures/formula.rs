//! The architectures as their papers have them, in f64 and without a cache: each position attends to the vectors of those before
//! it, and each head has keys and values of its own, also where they are made of a latent vector.

mod qwen4exp;

use std::collections::HashMap;
use std::f64::consts::PI;
use std::path::Path;

use membrane_formats::{Checkpoint, DType, Metadata};

type Vector = Vec<f64>;

/// A tensor's dimensions, the contiguous one first, and its elements.
type Tensor = (Vec<usize>, Vector);

/// A model's numbers and weights.
pub struct Model {
    tensors: HashMap<String, Tensor>,
    metadata: Metadata,
    prefix: String,
}

/// How a layer attends.
struct Attention<'a> {
    /// Query, key and value of each position and head.
    heads: usize,
    kv_heads: usize,
    window: usize,
    scale: f64,
    sinks: Option<&'a [f64]>,
}

impl Model {
    pub fn read(path: &Path) -> Self {
        let file = Checkpoint::open(path).unwrap();
        let tensor = |info: &membrane_formats::TensorInfo| {
            let mut bytes = vec![0; info.bytes as usize];
            file.read(info, 0, &mut bytes).unwrap();
            let dims = info.shape.dims().iter().map(|&dim| dim as usize).collect();
            (info.name.clone(), (dims, floats(info.dtype, &bytes)))
        };
        let tensors = file.tensors().iter().map(tensor).collect();
        let metadata = file.metadata().clone();
        let prefix = metadata.require_str("general.architecture").unwrap().to_owned();
        Self { tensors, metadata, prefix }
    }

    fn number(&self, key: &str) -> usize {
        self.metadata.require_u32(&format!("{}.{key}", self.prefix)).unwrap() as usize
    }

    fn float(&self, key: &str) -> f64 {
        f64::from(self.metadata.require_f32(&format!("{}.{key}", self.prefix)).unwrap())
    }

    fn tensor(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }

    fn vector(&self, name: &str) -> &[f64] {
        &self.tensor(name).1
    }

    /// The product of a matrix with a vector; of the matrix with number `index`, where several are stacked.
    fn product(&self, name: &str, index: usize, x: &[f64]) -> Vector {
        let (dims, elements) = self.tensor(name);
        assert_eq!(dims[0], x.len(), "{name}");
        let matrix = &elements[index * dims[0] * dims[1]..][..dims[0] * dims[1]];
        matrix.chunks(dims[0]).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vector {
        let square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (square + self.float("attention.layer_norm_rms_epsilon")).sqrt();
        x.iter().zip(self.vector(name)).map(|(x, weight)| x * scale * weight).collect()
    }

    /// Logits behind the last of the tokens.
    pub fn logits(&self, tokens: &[u32]) -> Vector {
        if self.prefix == "qwen4exp" {
            return self.qwen4exp(tokens);
        }
        self.output(self.finals(tokens).last().unwrap())
    }

    /// Of the head for multi-token prediction, logits of what comes behind the last of the tokens, and then of as many further
    /// drafts as there are in `drafts`, by what it makes of itself. The model itself has not seen the last token.
    pub fn drafted(&self, tokens: &[u32], drafts: &[u32]) -> Vec<Vector> {
        let block = self.layers();
        let name = |part: &str| format!("blk.{block}.nextn.{part}.weight");
        let (last, seen) = tokens.split_last().unwrap();
        let mut states = self.finals(seen);
        let mut next: Vec<u32> = seen[1..].iter().chain([last]).copied().collect();
        let mut logits = Vec::new();
        for step in 0..=drafts.len() {
            let join = |(token, state): (&u32, &Vector)| {
                let both = [self.norm(&name("enorm"), &self.row(*token)), self.norm(&name("hnorm"), state)];
                self.product(&name("eh_proj"), 0, &both.concat())
            };
            let mut x: Vec<Vector> = next.iter().zip(&states).map(join).collect();
            self.deepseek2(block, &mut x);
            let made = self.norm(&name("shared_head_norm"), x.last().unwrap());
            logits.push(self.output(&made));
            states.push(made);
            next.extend(drafts.get(step));
        }
        logits
    }

    /// Blocks without those for multi-token prediction.
    fn layers(&self) -> usize {
        let key = format!("{}.nextn_predict_layers", self.prefix);
        self.number("block_count") - self.metadata.u32(&key).unwrap().unwrap_or(0) as usize
    }

    fn row(&self, token: u32) -> Vector {
        let (dims, embedding) = self.tensor("token_embd.weight");
        let scale = if self.prefix == "gemma3" { (dims[0] as f64).sqrt() } else { 1.0 };
        embedding[token as usize * dims[0]..][..dims[0]].iter().map(|x| x * scale).collect()
    }

    fn output(&self, x: &[f64]) -> Vector {
        let tied = !self.tensors.contains_key("output.weight");
        self.product(if tied { "token_embd.weight" } else { "output.weight" }, 0, x)
    }

    /// Hidden states of all tokens before the output matrix.
    fn finals(&self, tokens: &[u32]) -> Vec<Vector> {
        let mut x: Vec<Vector> = tokens.iter().map(|&token| self.row(token)).collect();
        for block in 0..self.layers() {
            match self.prefix.as_str() {
                "gemma3" => self.gemma3(block, &mut x),
                "deepseek2" => self.deepseek2(block, &mut x),
                "glm4moe" => self.glm4moe(block, &mut x),
                "mistral3" => self.mistral3(block, &mut x),
                _ => self.gpt_oss(block, &mut x),
            }
        }
        x.iter().map(|x| self.norm("output_norm.weight", x)).collect()
    }

    fn gemma3(&self, block: usize, x: &mut [Vector]) {
        let name = |part: &str| format!("blk.{block}.{part}.weight");
        let global = block % 6 == 5;
        let (heads, dim) = (self.number("attention.head_count"), self.number("attention.key_length"));
        let (base, factor) = if global { (1e6, 8.0) } else { (1e4, 1.0) };
        let angle = |i: usize| base_frequency(base, i, dim) / factor;
        let normed: Vec<Vector> = x.iter().map(|x| self.norm(&name("attn_norm"), x)).collect();
        let rotated = |part: &str| -> Vec<Vector> {
            let head = |position: usize, head: &[f64]| {
                let head = self.norm(&name(&format!("attn_{part}_norm")), head);
                halves(&head, position, &angle, 1.0)
            };
            let heads = |(position, x): (usize, &Vector)| {
                let all = self.product(&name(&format!("attn_{part}")), 0, x);
                all.chunks(dim).flat_map(|one| head(position, one)).collect()
            };
            normed.iter().enumerate().map(heads).collect()
        };
        let values: Vec<Vector> = normed.iter().map(|x| self.product(&name("attn_v"), 0, x)).collect();
        let attention = Attention {
            heads,
            kv_heads: self.number("attention.head_count_kv"),
            window: if global { usize::MAX } else { self.number("attention.sliding_window") },
            scale: 1.0 / (dim as f64).sqrt(),
            sinks: None,
        };
        for (x, mixed) in x.iter_mut().zip(attend(&attention, &rotated("q"), &rotated("k"), &values)) {
            let mixed = self.product(&name("attn_output"), 0, &mixed);
            add(x, &self.norm(&name("post_attention_norm"), &mixed));
            let normed = self.norm(&name("ffn_norm"), x);
            let (gate, up) =
                (self.product(&name("ffn_gate"), 0, &normed), self.product(&name("ffn_up"), 0, &normed));
            let inner: Vector = gate.iter().zip(&up).map(|(gate, up)| gelu(*gate) * up).collect();
            let out = self.product(&name("ffn_down"), 0, &inner);
            add(x, &self.norm(&name("post_ffw_norm"), &out));
        }
    }

    fn mistral3(&self, block: usize, x: &mut [Vector]) {
        let name = |part: &str| format!("blk.{block}.{part}.weight");
        let (heads, dim) = (self.number("attention.head_count"), self.number("attention.key_length"));
        let angle = |i: usize| self.yarn(i, dim, self.float("rope.freq_base"), true);
        let normed: Vec<Vector> = x.iter().map(|x| self.norm(&name("attn_norm"), x)).collect();
        let rotated = |part: &str| -> Vec<Vector> {
            let heads = |(position, x): (usize, &Vector)| {
                let all = self.product(&name(&format!("attn_{part}")), 0, x);
                all.chunks(dim).flat_map(|head| neighbours(head, position, &angle)).collect()
            };
            normed.iter().enumerate().map(heads).collect()
        };
        let mut queries = rotated("q");
        self.temper(&mut queries, "rope.scaling.original_context_length");
        let values: Vec<Vector> = normed.iter().map(|x| self.product(&name("attn_v"), 0, x)).collect();
        let attention = Attention {
            heads,
            kv_heads: self.number("attention.head_count_kv"),
            window: usize::MAX,
            scale: 1.0 / (dim as f64).sqrt(),
            sinks: None,
        };
        for (x, mixed) in x.iter_mut().zip(attend(&attention, &queries, &rotated("k"), &values)) {
            add(x, &self.product(&name("attn_output"), 0, &mixed));
            let normed = self.norm(&name("ffn_norm"), x);
            add(x, &self.silu_unit(&name, "", 0, &normed));
        }
    }

    /// What queries grow by with their position where a file says so. `length`: the key of the positions that share a factor.
    fn temper(&self, queries: &mut [Vector], length: &str) {
        let key = format!("{}.attention.temperature_scale", self.prefix);
        let Some(rate) = self.metadata.f32(&key).unwrap() else { return };
        let length = self.number(length);
        for (position, query) in queries.iter_mut().enumerate() {
            let factor = 1.0 + f64::from(rate) * (1.0 + (position / length) as f64).ln();
            query.iter_mut().for_each(|x| *x *= factor);
        }
    }

    fn gpt_oss(&self, block: usize, x: &mut [Vector]) {
        let name = |part: &str| format!("blk.{block}.{part}.weight");
        let bias = |part: &str| self.vector(&format!("blk.{block}.{part}.bias"));
        let (heads, dim) = (self.number("attention.head_count"), self.number("attention.key_length"));
        let factor = self.float("rope.scaling.factor");
        let angle = |i: usize| self.yarn(i, dim, self.float("rope.freq_base"), false);
        let normed: Vec<Vector> = x.iter().map(|x| self.norm(&name("attn_norm"), x)).collect();
        let made = |part: &str, x: &[f64]| {
            let mut made = self.product(&name(&format!("attn_{part}")), 0, x);
            add(&mut made, bias(&format!("attn_{part}")));
            made
        };
        let rotated = |part: &str| -> Vec<Vector> {
            let heads = |(position, x): (usize, &Vector)| {
                let all = made(part, x);
                all.chunks(dim)
                    .flat_map(|head| halves(head, position, &angle, 1.0 + 0.1 * factor.ln()))
                    .collect()
            };
            normed.iter().enumerate().map(heads).collect()
        };
        let values: Vec<Vector> = normed.iter().map(|x| made("v", x)).collect();
        let attention = Attention {
            heads,
            kv_heads: self.number("attention.head_count_kv"),
            window: if block.is_multiple_of(2) {
                self.number("attention.sliding_window")
            } else {
                usize::MAX
            },
            scale: 1.0 / (dim as f64).sqrt(),
            sinks: Some(self.vector(&name("attn_sinks"))),
        };
        let mixed = attend(&attention, &rotated("q"), &rotated("k"), &values);
        for (x, mixed) in x.iter_mut().zip(mixed) {
            add(x, &made("output", &mixed));
            let normed = self.norm(&name("post_attention_norm"), x);
            let mut scores = self.product(&name("ffn_gate_inp"), 0, &normed);
            add(&mut scores, bias("ffn_gate_inp"));
            let chosen = best(&scores, self.number("expert_used_count"));
            let sum: f64 = chosen.iter().map(|&expert| scores[expert].exp()).sum();
            let mut out = vec![0.0; x.len()];
            for expert in chosen {
                let part = |part: &str, x: &[f64]| {
                    let mut made = self.product(&name(part), expert, x);
                    let width = made.len();
                    add(&mut made, &bias(part)[expert * width..][..width]);
                    made
                };
                let (gate, up) = (part("ffn_gate_exps", &normed), part("ffn_up_exps", &normed));
                let unit = |(gate, up): (&f64, &f64)| {
                    let gate = gate.min(7.0);
                    gate * sigmoid(1.702 * gate) * (up.clamp(-7.0, 7.0) + 1.0)
                };
                let inner: Vector = gate.iter().zip(&up).map(unit).collect();
                let weight = scores[expert].exp() / sum;
                add(&mut out, &part("ffn_down_exps", &inner).iter().map(|x| x * weight).collect::<Vector>());
            }
            add(x, &out);
        }
    }

    fn deepseek2(&self, block: usize, x: &mut [Vector]) {
        let name = |part: &str| format!("blk.{block}.{part}.weight");
        let (heads, rank) = (self.number("attention.head_count"), self.number("attention.kv_lora_rank"));
        let rotated = self.number("rope.dimension_count");
        let plain = self.number("attention.key_length_mla") - rotated;
        let angle = |i: usize| self.yarn(i, rotated, 10_000.0, true);
        let (mut queries, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (position, x) in x.iter().enumerate() {
            let normed = self.norm(&name("attn_norm"), x);
            let latent = self.norm(&name("attn_q_a_norm"), &self.product(&name("attn_q_a"), 0, &normed));
            let query = self.product(&name("attn_q_b"), 0, &latent);
            let turned = |head: &[f64]| neighbours(head, position, &angle);
            let query: Vector = query
                .chunks(plain + rotated)
                .flat_map(|head| [head[..plain].to_vec(), turned(&head[plain..])].concat())
                .collect();
            let both = self.product(&name("attn_kv_a_mqa"), 0, &normed);
            let (latent, shared) = (self.norm(&name("attn_kv_a_norm"), &both[..rank]), turned(&both[rank..]));
            // The file has the matrices of keys transposed.
            let (dims, matrix) = self.tensor(&name("attn_k_b"));
            let key = |head: usize| -> Vector {
                let column = |i: usize| -> f64 {
                    (0..rank).map(|j| matrix[(head * dims[1] + j) * dims[0] + i] * latent[j]).sum()
                };
                (0..plain).map(column).chain(shared.iter().copied()).collect()
            };
            queries.push(query);
            keys.push((0..heads).flat_map(key).collect());
            values.push((0..heads).flat_map(|head| self.product(&name("attn_v_b"), head, &latent)).collect());
        }
        self.temper(&mut queries, "attention.temperature_length");
        let growth = 1.0 + 0.1 * self.float("rope.scaling.factor").ln();
        let scale = growth * growth / ((plain + rotated) as f64).sqrt();
        let attention = Attention { heads, kv_heads: heads, window: usize::MAX, scale, sinks: None };
        for (x, mixed) in x.iter_mut().zip(attend(&attention, &queries, &keys, &values)) {
            add(x, &self.product(&name("attn_output"), 0, &mixed));
            self.sparse_unit(block, "ffn_norm", x);
        }
    }

    fn glm4moe(&self, block: usize, x: &mut [Vector]) {
        let name = |part: &str| format!("blk.{block}.{part}.weight");
        let (heads, dim) = (self.number("attention.head_count"), self.number("attention.key_length"));
        let turned = self.number("rope.dimension_count");
        let angle = |i: usize| base_frequency(self.float("rope.freq_base"), i, turned);
        let normed: Vec<Vector> = x.iter().map(|x| self.norm(&name("attn_norm"), x)).collect();
        let made = |part: &str, x: &[f64]| {
            let mut made = self.product(&name(&format!("attn_{part}")), 0, x);
            add(&mut made, self.vector(&format!("blk.{block}.attn_{part}.bias")));
            made
        };
        let rotated = |part: &str| -> Vec<Vector> {
            let norm = name(&format!("attn_{part}_norm"));
            let head = |position: usize, head: &[f64]| -> Vector {
                let normed = self.tensors.contains_key(&norm).then(|| self.norm(&norm, head));
                let head = normed.unwrap_or_else(|| head.to_vec());
                [halves(&head[..turned], position, &angle, 1.0), head[turned..].to_vec()].concat()
            };
            let heads = |(position, x): (usize, &Vector)| {
                made(part, x).chunks(dim).flat_map(|one| head(position, one)).collect()
            };
            normed.iter().enumerate().map(heads).collect()
        };
        let values: Vec<Vector> = normed.iter().map(|x| made("v", x)).collect();
        let attention = Attention {
            heads,
            kv_heads: self.number("attention.head_count_kv"),
            window: usize::MAX,
            scale: 1.0 / (dim as f64).sqrt(),
            sinks: None,
        };
        for (x, mixed) in x.iter_mut().zip(attend(&attention, &rotated("q"), &rotated("k"), &values)) {
            add(x, &self.product(&name("attn_output"), 0, &mixed));
            self.sparse_unit(block, "post_attention_norm", x);
        }
    }

    /// Adds what DeepSeek's experts make of x, or in the first layer one unit.
    fn sparse_unit(&self, block: usize, norm: &str, x: &mut [f64]) {
        let name = |part: &str| format!("blk.{block}.{part}.weight");
        let normed = self.norm(&name(norm), x);
        if block == 0 {
            return add(x, &self.silu_unit(&name, "", 0, &normed));
        }
        add(x, &self.silu_unit(&name, "_shexp", 0, &normed));
        let outputs = self.product(&name("ffn_gate_inp"), 0, &normed);
        let gating = format!("{}.expert_gating_func", self.prefix);
        let second_version = self.metadata.u32(&gating).unwrap() == Some(1);
        let scores: Vector = match second_version {
            true => softmax(&outputs),
            false => outputs.into_iter().map(sigmoid).collect(),
        };
        let mut biased = scores.clone();
        if !second_version {
            add(&mut biased, self.vector(&format!("blk.{block}.exp_probs_b.bias")));
        }
        let size = scores.len() / self.number("expert_group_count");
        let counted = if second_version { 1 } else { 2 };
        let score = |group: &[f64]| best(group, counted).iter().map(|&i| group[i]).sum();
        let sums: Vector = biased.chunks(size).map(score).collect();
        let groups = best(&sums, self.number("expert_group_used_count"));
        for (expert, score) in biased.iter_mut().enumerate() {
            if !groups.contains(&(expert / size)) {
                *score = f64::NEG_INFINITY;
            }
        }
        let chosen = best(&biased, self.number("expert_used_count"));
        let sum: f64 = if second_version { 1.0 } else { chosen.iter().map(|&expert| scores[expert]).sum() };
        for expert in chosen {
            let weight = self.float("expert_weights_scale") * scores[expert] / sum;
            let out = self.silu_unit(&name, "_exps", expert, &normed);
            add(x, &out.iter().map(|x| x * weight).collect::<Vector>());
        }
    }

    fn silu_unit(&self, name: &dyn Fn(&str) -> String, suffix: &str, index: usize, x: &[f64]) -> Vector {
        let part = |part: &str, x: &[f64]| self.product(&name(&format!("ffn_{part}{suffix}")), index, x);
        let inner: Vector =
            part("gate", x).iter().zip(part("up", x)).map(|(gate, up)| gate * sigmoid(*gate) * up).collect();
        part("down", &inner)
    }

    /// Radians a position of pair i, with betas 32 and 1.
    fn yarn(&self, i: usize, dims: usize, base: f64, whole: bool) -> f64 {
        let context = self.number("rope.scaling.original_context_length") as f64;
        let pair = |turns: f64| dims as f64 * (context / (turns * 2.0 * PI)).ln() / (2.0 * base.ln());
        let (mut low, mut high) = (pair(32.0), pair(1.0));
        if whole {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, high) = (low.max(0.0), high.min(dims as f64 - 1.0));
        let slowed = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        let plain = base_frequency(base, i, dims);
        plain * (1.0 - slowed) + plain / self.float("rope.scaling.factor") * slowed
    }
}

/// For each position what its heads make of the values of the positions in their window.
fn attend(attention: &Attention<'_>, q: &[Vector], k: &[Vector], v: &[Vector]) -> Vec<Vector> {
    let of = |position: usize| {
        let seen: Vec<usize> = ((position + 1).saturating_sub(attention.window)..position + 1).collect();
        (0..attention.heads)
            .flat_map(|head| attend_to(attention, (&q[position], k, v), head, &seen))
            .collect()
    };
    (0..q.len()).map(of).collect()
}

/// What a head of a query makes of the values of the positions that it sees.
fn attend_to(
    attention: &Attention<'_>,
    (q, k, v): (&[f64], &[Vector], &[Vector]),
    head: usize,
    seen: &[usize],
) -> Vector {
    let Attention { heads, kv_heads, scale, sinks, .. } = *attention;
    let (dim, value_dim) = (q.len() / heads, v[0].len() / kv_heads);
    let shared = head / (heads / kv_heads);
    let query = &q[head * dim..][..dim];
    let score = |p: usize| -> f64 {
        let key = &k[p][shared * dim..][..dim];
        scale * query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>()
    };
    let e: Vector = seen.iter().map(|&p| score(p).exp()).collect();
    let sum = e.iter().sum::<f64>() + sinks.map_or(0.0, |sinks| sinks[head].exp());
    let column =
        |d: usize| seen.iter().zip(&e).map(|(&p, e)| e * v[p][shared * value_dim + d]).sum::<f64>() / sum;
    (0..value_dim).map(column).collect()
}

fn base_frequency(base: f64, i: usize, dims: usize) -> f64 {
    base.powf(-2.0 * i as f64 / dims as f64)
}

/// Rotates the pairs (i, i + half).
fn halves(x: &[f64], position: usize, angle: &dyn Fn(usize) -> f64, magnitude: f64) -> Vector {
    let half = x.len() / 2;
    let mut out = x.to_vec();
    for i in 0..half {
        let (sin, cos) = (position as f64 * angle(i)).sin_cos();
        out[i] = magnitude * (x[i] * cos - x[i + half] * sin);
        out[i + half] = magnitude * (x[i] * sin + x[i + half] * cos);
    }
    out
}

/// Rotates the pairs (2 i, 2 i + 1).
fn neighbours(x: &[f64], position: usize, angle: &dyn Fn(usize) -> f64) -> Vector {
    let mut out = x.to_vec();
    for i in 0..x.len() / 2 {
        let (sin, cos) = (position as f64 * angle(i)).sin_cos();
        out[2 * i] = x[2 * i] * cos - x[2 * i + 1] * sin;
        out[2 * i + 1] = x[2 * i] * sin + x[2 * i + 1] * cos;
    }
    out
}

/// The indices of the greatest.
fn best(scores: &[f64], count: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..scores.len()).collect();
    all.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    all.truncate(count);
    all
}

fn add(x: &mut [f64], y: &[f64]) {
    assert_eq!(x.len(), y.len());
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softmax(x: &[f64]) -> Vector {
    let largest = x.iter().fold(f64::NEG_INFINITY, |largest, x| largest.max(*x));
    let powers: Vector = x.iter().map(|x| (x - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
}

/// The elements of a tensor in f32 or in Q8_0 with scales that are powers of two.
fn floats(dtype: DType, bytes: &[u8]) -> Vector {
    match dtype {
        DType::F32 => bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        DType::Q8_0 => {
            let block = |block: &[u8]| {
                let bits = u16::from_le_bytes([block[0], block[1]]);
                assert_eq!(bits & 0x83ff, 0, "a scale that is a power of two");
                let scale = 2.0_f64.powi(i32::from(bits >> 10) - 15);
                block[2..].iter().map(|&q| f64::from(q as i8) * scale).collect::<Vector>()
            };
            bytes.chunks(34).flat_map(block).collect()
        }
        other => panic!("{other:?}"),
    }
}
