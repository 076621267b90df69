//! Qwen3.8-Flash-Next: several residual streams, delta-nets, attention over chosen blocks, n-grams.

use super::{Attention, Model, Vector, add, attend_to, base_frequency, best, halves, sigmoid};

fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// Elements `part`-wise of what is one behind the other.
fn parts(x: &[f64], part: usize) -> Vec<Vector> {
    x.chunks(part).map(<[f64]>::to_vec).collect()
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

impl Model {
    /// What a part of a layer reads of a token's streams, and the shares by which it adds to them.
    fn mixed(&self, prefix: &str, streams: &[Vector]) -> (Vector, Vector) {
        let name = |part: &str| format!("{prefix}_{part}.weight");
        let normed = self.norm_streams(&name("norm"), streams).concat();
        let count = streams.len() as f64;
        let low: Vector = self.product(&name("down"), 0, &normed).iter().map(|x| silu(x / count)).collect();
        let gate = self.product(&name("up"), 0, &low);
        let width = streams[0].len();
        let mean = |j: usize| {
            (0..streams.len()).map(|s| sigmoid(gate[s * width + j]) * normed[s * width + j]).sum::<f64>()
                / count
        };
        let shares = match self.tensors.contains_key(&name("inject")) {
            true => {
                self.product(&name("inject"), 0, &normed).iter().map(|x| 2.0 * sigmoid(x / count)).collect()
            }
            false => Vector::new(),
        };
        ((0..width).map(mean).collect(), shares)
    }

    fn norm_streams(&self, name: &str, streams: &[Vector]) -> Vec<Vector> {
        let width = streams[0].len();
        let norm = |(s, x): (usize, &Vector)| {
            let scale = 1.0 / (dot(x, x) / width as f64 + 1e-6).sqrt();
            x.iter().zip(&self.vector(name)[s * width..]).map(|(x, w)| x * scale * w).collect()
        };
        streams.iter().enumerate().map(norm).collect()
    }

    /// Logits behind the last of the tokens.
    pub(super) fn qwen4exp(&self, tokens: &[u32]) -> Vector {
        let (dims, embedding) = self.tensor("token_embd.weight");
        let row = |&token: &u32| embedding[token as usize * dims[0]..][..dims[0]].to_vec();
        let mut x: Vec<Vec<Vector>> =
            tokens.iter().map(|token| vec![row(token); self.number("hyper_connection.count")]).collect();
        for block in 0..self.number("block_count") {
            if block == 2 {
                self.ngrams(block, tokens, &mut x);
            }
            let (normed, shares): (Vec<_>, Vec<_>) =
                x.iter().map(|x| self.mixed(&format!("blk.{block}.hc_attn"), x)).unzip();
            let out = match block % 2 {
                0 => self.delta_net(block, &normed),
                _ => self.sparse(block, &normed),
            };
            for ((x, shares), out) in x.iter_mut().zip(&shares).zip(out) {
                inject(x, shares, &out);
                let (normed, shares) = self.mixed(&format!("blk.{block}.hc_ffn"), x);
                inject(x, &shares, &self.mixture(block, &normed));
            }
        }
        let (last, _) = self.mixed("output_hc", x.last().unwrap());
        self.product("output.weight", 0, &last)
    }

    fn mixture(&self, block: usize, x: &[f64]) -> Vector {
        let name = |part: &str| format!("blk.{block}.{part}.weight");
        let scores = self.product(&name("ffn_gate_inp"), 0, x);
        let chosen = best(&scores, self.number("expert_used_count"));
        let sum: f64 = chosen.iter().map(|&expert| scores[expert].exp()).sum();
        let gate = sigmoid(dot(self.vector(&name("ffn_gate_inp_shexp")), x));
        let mut out: Vector = self.silu_unit(&name, "_shexp", 0, x).iter().map(|x| x * gate).collect();
        for expert in chosen {
            let weight = scores[expert].exp() / sum;
            add(
                &mut out,
                &self.silu_unit(&name, "_exps", expert, x).iter().map(|x| x * weight).collect::<Vector>(),
            );
        }
        out
    }

    fn delta_net(&self, block: usize, x: &[Vector]) -> Vec<Vector> {
        let name = |part: &str| format!("blk.{block}.{part}.weight");
        let (dim, keys, values) = (
            self.number("ssm.state_size"),
            self.number("ssm.group_count"),
            self.number("ssm.time_step_rank"),
        );
        let joined: Vec<Vector> = x.iter().map(|x| self.product(&name("attn_qkv"), 0, x)).collect();
        let taps = self.vector(&name("ssm_conv1d"));
        let mut states = vec![vec![vec![0.0; dim]; dim]; values];
        let unit = |x: &[f64]| -> Vector {
            let length = (dot(x, x) + 1e-6).sqrt();
            x.iter().map(|x| x / length).collect()
        };
        let mut out = Vec::new();
        for (position, x) in x.iter().enumerate() {
            let convolved: Vector = convolved(&joined, taps, 1, position).into_iter().map(silu).collect();
            let heads = parts(&convolved, dim);
            let z = parts(&self.product(&name("attn_gate"), 0, x), dim);
            let (decay, strength) =
                (self.product(&name("ssm_alpha"), 0, x), self.product(&name("ssm_beta"), 0, x));
            let mut mixed = Vec::new();
            for (head, state) in states.iter_mut().enumerate() {
                let root = (dim as f64).sqrt();
                let query: Vector = unit(&heads[head % keys]).iter().map(|x| x / root).collect();
                let (key, value) = (unit(&heads[keys + head % keys]), &heads[2 * keys + head]);
                let rate = self.vector(&format!("blk.{block}.ssm_a"))[head];
                let bias = self.vector(&format!("blk.{block}.ssm_dt.bias"))[head];
                let factor = (rate * (1.0 + (decay[head] + bias).exp()).ln()).exp();
                state.iter_mut().flatten().for_each(|s| *s *= factor);
                let column = |state: &[Vector], j: usize, x: &[f64]| -> f64 {
                    state.iter().zip(x).map(|(row, x)| row[j] * x).sum()
                };
                let strength = sigmoid(strength[head]);
                let change: Vector =
                    (0..dim).map(|j| (value[j] - column(state, j, &key)) * strength).collect();
                for (row, key) in state.iter_mut().zip(&key) {
                    row.iter_mut().zip(&change).for_each(|(s, change)| *s += key * change);
                }
                let read: Vector = (0..dim).map(|j| column(state, j, &query)).collect();
                let normed = self.norm(&name("ssm_norm"), &read);
                mixed.extend(normed.iter().zip(&z[head]).map(|(x, z)| x * sigmoid(*z)));
            }
            out.push(self.product(&name("ssm_out"), 0, &mixed));
        }
        out
    }

    /// Attention over the blocks that the index chooses and the positions behind the last whole one.
    fn sparse(&self, block: usize, x: &[Vector]) -> Vec<Vector> {
        let name = |part: &str| format!("blk.{block}.{part}.weight");
        let (heads, dim) = (self.number("attention.head_count"), self.number("attention.key_length"));
        let rotated = self.number("rope.dimension_count");
        let angle = |i: usize| base_frequency(1e7, i, rotated);
        let turned = |norm: &str, head: &[f64], position: usize| {
            let head = self.norm(&name(norm), head);
            [halves(&head[..rotated], position, &angle, 1.0), head[rotated..].to_vec()].concat()
        };
        let (mut q, mut k, mut v, mut gates) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut index_q, mut index_k) = (Vec::new(), Vec::new());
        for (position, x) in x.iter().enumerate() {
            let both = parts(&self.product(&name("attn_q"), 0, x), dim);
            q.push(
                both.iter()
                    .step_by(2)
                    .flat_map(|head| turned("attn_q_norm", head, position))
                    .collect::<Vector>(),
            );
            gates.push(both.iter().skip(1).step_by(2).flatten().map(|x| sigmoid(*x)).collect::<Vector>());
            let keys = parts(&self.product(&name("attn_k"), 0, x), dim);
            k.push(keys.iter().flat_map(|head| turned("attn_k_norm", head, position)).collect::<Vector>());
            v.push(self.product(&name("attn_v"), 0, x));
            let index = parts(&self.product(&name("indexer.q_proj"), 0, x), dim);
            index_q
                .push(index.iter().map(|head| turned("indexer.q_norm", head, position)).collect::<Vec<_>>());
            index_k.push(self.product(&name("indexer.k_proj"), 0, x));
        }
        let ratio = 3;
        let attention = Attention {
            heads,
            kv_heads: self.number("attention.head_count_kv"),
            window: usize::MAX,
            scale: 1.0 / (dim as f64).sqrt(),
            sinks: None,
        };
        let of = |position: usize| {
            let whole = (position + 1) / ratio;
            let score = |block: usize| -> f64 {
                let keys = &index_k[block * ratio..(block + 1) * ratio];
                let mean: Vector =
                    (0..dim).map(|j| keys.iter().map(|key| key[j]).sum::<f64>() / ratio as f64).collect();
                let key = turned("indexer.k_norm", &mean, block * ratio);
                index_q[position].iter().map(|head| dot(head, &key).max(0.0)).sum()
            };
            let scores: Vector = (0..whole).map(score).collect();
            let chosen = best(&scores, self.number("attention.indexer.top_k") / ratio);
            let mut seen: Vec<usize> =
                chosen.iter().flat_map(|block| block * ratio..(block + 1) * ratio).collect();
            seen.extend(whole * ratio..position + 1);
            let mixed: Vector = (0..heads)
                .flat_map(|head| attend_to(&attention, (&q[position], &k, &v), head, &seen))
                .zip(&gates[position])
                .map(|(x, gate)| x * gate)
                .collect();
            self.product(&name("attn_output"), 0, &mixed)
        };
        (0..x.len()).map(of).collect()
    }

    fn ngrams(&self, block: usize, tokens: &[u32], x: &mut [Vec<Vector>]) {
        let name = |part: &str| format!("blk.{block}.{part}.weight");
        let numbers = |key: &str| {
            self.metadata.i64_array(&format!("qwen4exp.ple.{key}")).unwrap().unwrap().into_owned()
        };
        let (multipliers, firsts, rows) =
            (numbers("layer_multipliers"), numbers("head_offsets"), numbers("head_vocab_sizes"));
        let (dims, table) = self.tensor("per_layer_token_embd.weight");
        let separator = self.number("ple.eos_token_id") as i64;
        let (mut gated, mut normed) = (Vec::new(), Vec::new());
        for position in 0..tokens.len() {
            // What comes before a separator, or before the first token, counts as separators.
            let reach = |back: usize| {
                let cut = (1..=back).any(|b| position < b || i64::from(tokens[position - b]) == separator);
                if cut { separator } else { i64::from(tokens[position - back]) }
            };
            let mut embedded = Vector::new();
            for (head, (first, rows)) in firsts.iter().zip(&rows).enumerate() {
                let hash = (0..head / 2 + 2).fold(0, |hash, back| hash ^ (reach(back) * multipliers[back]));
                let row = (first + hash % rows) as usize;
                embedded.extend(&table[row * dims[0]..][..dims[0]]);
            }
            let width = x[position][0].len();
            let key = self.norm_streams(
                &name("ple_norm_key"),
                &parts(&self.product(&name("ple_key"), 0, &embedded), width),
            );
            let query = self.norm_streams(&name("ple_norm_query"), &x[position]);
            let value = self.product(&name("ple_value"), 0, &embedded);
            let weighed = key.iter().zip(&query).map(|(key, query)| {
                let score = dot(key, query) / (width as f64).sqrt();
                let gate = sigmoid(score.abs().max(1e-6).sqrt() * score.signum());
                value.iter().map(|x| x * gate).collect::<Vector>()
            });
            gated.push(weighed.collect::<Vec<_>>());
            normed.push(self.norm_streams(&name("ple_norm_conv"), &gated[position]).concat());
        }
        let taps = self.vector(&name("ple_conv1d"));
        for (position, x) in x.iter_mut().enumerate() {
            let width = x[0].len();
            let convolved = convolved(&normed, taps, multipliers.len(), position);
            for (stream, x) in x.iter_mut().enumerate() {
                add(x, &gated[position][stream]);
                let out: Vector = convolved[stream * width..][..width].iter().map(|x| silu(*x)).collect();
                add(x, &out);
            }
        }
    }
}

/// What a position's inputs and those before it, `apart` positions apart, give; `taps` [channels, kernel], the newest last.
fn convolved(inputs: &[Vector], taps: &[f64], apart: usize, position: usize) -> Vector {
    let channels = inputs[0].len();
    let kernel = taps.len() / channels;
    let tap = |channel: usize, tap: usize| match position.checked_sub((kernel - 1 - tap) * apart) {
        Some(position) => inputs[position][channel] * taps[channel * kernel + tap],
        None => 0.0,
    };
    (0..channels).map(|channel| (0..kernel).map(|i| tap(channel, i)).sum()).collect()
}

fn inject(streams: &mut [Vector], shares: &[f64], out: &[f64]) {
    for (stream, share) in streams.iter_mut().zip(shares) {
        stream.iter_mut().zip(out).for_each(|(x, out)| *x += share * out);
    }
}
