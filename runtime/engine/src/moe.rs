//! The mixture of experts of a block: route, compute the experts that are in memory while the others
//! arrive, combine.

use membrane_kernels::{Precision, Product, Region, matmul, ops};
use membrane_pager::{Guess, Lease, Pager, Request, Wanted};

use crate::error::Result;
use crate::forward::{Observer, gated_unit};
use crate::model::{Compute, Core};
use crate::router;
use crate::scratch::{FORESEEN_ROWS, Scratch};
use crate::stages::Stage;
use crate::weights::{Block, FeedForward, GatedUnit, InputNorm, MoeBlock, Weight};

/// Passes of a token each that gain about the time that rewriting an expert takes. One that has been in as many is likely to be in as
/// many again. Passes of many rows gain less.
const USES_BEFORE_REWRITING: u32 = 6;
/// Passes behind which it is worth time that would be spent waiting.
const USES_WHILE_WAITING: u32 = 2;

/// Which tokens go to which expert, sorted by expert.
#[derive(Default)]
pub(crate) struct Routing {
    pub ids: Vec<u32>,     // [rows, top_k], best first
    pub weights: Vec<f32>, // [rows, top_k], as applied
    /// Expert e takes `tokens[starts[e]..starts[e + 1]]`.
    starts: Vec<usize>, // [experts + 1]
    tokens: Vec<u32>,      // [rows * top_k], row of the chunk
    slots: Vec<u32>,       // [rows * top_k], index into `ids` of the same entry
    wanted: Vec<u32>,      // experts with at least one token, ascending
    uses: Vec<u32>,        // tokens of each of them
    /// Row of `expert_out` that holds the result for an entry of `ids`.
    result: Vec<u32>, // [rows, top_k]
    /// 0, 1, 2, ...
    count: Vec<u32>, // [rows * top_k]
}

impl Routing {
    /// Sorts the entries of `ids` by expert; within an expert by row.
    fn sort(&mut self, experts: usize, top_k: usize) {
        let entries = self.ids.len();
        self.starts.clear();
        self.starts.resize(experts + 1, 0);
        for &id in &self.ids {
            self.starts[id as usize + 1] += 1;
        }
        self.wanted.clear();
        self.wanted.extend((0..experts as u32).filter(|&e| self.starts[e as usize + 1] > 0));
        self.uses.clear();
        self.uses.extend(self.wanted.iter().map(|&e| self.starts[e as usize + 1] as u32));
        for e in 0..experts {
            self.starts[e + 1] += self.starts[e];
        }
        self.tokens.resize(entries, 0);
        self.slots.resize(entries, 0);
        self.result.resize(entries, 0);
        let grown = self.count.len() as u32;
        self.count.extend(grown..entries as u32);
        let mut next = self.starts.clone();
        for (entry, &id) in self.ids.iter().enumerate() {
            let place = &mut next[id as usize];
            self.tokens[*place] = (entry / top_k) as u32;
            self.slots[*place] = entry as u32;
            *place += 1;
        }
    }

    /// The experts that the last chunk used, ascending.
    pub fn wanted(&self) -> &[u32] {
        &self.wanted
    }

    fn range(&self, expert: u32) -> std::ops::Range<usize> {
        self.starts[expert as usize]..self.starts[expert as usize + 1]
    }
}

/// branch = the mixture for the chunk in `scratch.input` (whose f32 rows are `scratch.normed`).
pub(crate) fn run(
    core: &Core,
    region: &Region<'_>,
    index: usize,
    block: &MoeBlock,
    rows: usize,
    compute: &mut Compute,
    observer: &mut dyn Observer,
) -> Result<()> {
    let moe = &block.shape;
    let hidden = core.hyper.hidden;
    let Compute { scratch: s, routing, pager, .. } = compute;
    router::route(core, region, index, block, rows, s, routing)?;
    routing.sort(moe.experts, moe.top_k);
    observer.router(index, rows, &routing.ids, &routing.weights);
    let Some(pager) = pager else { return Ok(()) };
    let (group, rows_of_pass) = (index as u32, rows as u32);
    let mut request = pager.request_for(&Wanted {
        group,
        experts: &routing.wanted,
        rows: rows_of_pass,
        uses: &routing.uses,
    });
    foresee(core, region, index, rows, pager, s)?;
    s.clock.lap(region, Stage::Router);
    if let Some((unit, gate)) = &block.shared {
        shared_expert(core, region, unit, gate.as_ref(), rows, s)?;
    } else {
        s.branch[..rows * hidden].fill(0.0);
    }
    let mut done = 0;
    loop {
        if !request.is_ready() {
            region.idle();
        }
        let Some(ready) = request.next_ready()? else { break };
        s.clock.lap(region, Stage::Waiting);
        let most_rows = wave_rows(block.gate.rows, region.threads());
        let mut leases = &ready.leases[..];
        while !leases.is_empty() {
            let counts = leases.iter().map(|lease| routing.range(lease.index()).len());
            let (now, later) = leases.split_at(wave(counts, most_rows));
            done += experts(core, region, block, now, done, s, routing)?;
            leases = later;
        }
        if core.precision != Precision::Reference && block.rewrites() {
            rewrite(region, block, ready.leases, &request)?;
            s.clock.lap(region, Stage::Rewriting);
        }
    }
    ops::add_weighted_rows(
        region,
        &s.expert_out[..done * hidden],
        &routing.result,
        &routing.weights,
        moe.top_k,
        &mut s.branch[..rows * hidden],
    );
    s.clock.lap(region, Stage::Combine);
    Ok(())
}

/// Bytes of gates, ups and what the last matrix takes that a thread should keep in its second cache.
const WAVE_BYTES: usize = 1 << 20;

/// How many tokens' rows experts of `inner` rows compute together.
fn wave_rows(inner: usize, threads: usize) -> usize {
    threads * WAVE_BYTES / (3 * inner * size_of::<f32>()).max(1)
}

/// How many experts come next, given the rows of each: those that have so many together, one at least.
fn wave(rows: impl Iterator<Item = usize>, most: usize) -> usize {
    let mut all = 0;
    let fits = |rows: &usize| {
        all += rows;
        all <= most
    };
    rows.take_while(fits).count().max(1)
}

/// Lets the pager read what the next layers are likely to ask for while this one computes.
fn foresee(
    core: &Core,
    region: &Region<'_>,
    index: usize,
    rows: usize,
    pager: &Pager,
    s: &mut Scratch,
) -> Result<()> {
    if !core.lookahead || rows > FORESEEN_ROWS {
        return Ok(());
    }
    let Some(Block { ffn: FeedForward::Moe(moe), .. }) = core.layout.blocks.get(index + 1) else {
        return Ok(());
    };
    let layers = pager.lookahead(rows * moe.shape.top_k);
    let mut guesses = Vec::with_capacity(layers);
    for (next, block) in core.layout.blocks.iter().enumerate().skip(index + 1).take(layers) {
        let Block { ffn_norm: InputNorm::Rms(norm), ffn: FeedForward::Moe(moe), .. } = block else { break };
        let experts = router::foresee(core, region, norm, moe, rows, s)?;
        guesses.push(Guess { group: next as u32, experts, top_k: moe.shape.top_k });
    }
    pager.foresee(&guesses);
    Ok(())
}

/// branch = unit(x), times sigmoid(gate x) where there is a gate.
fn shared_expert(
    core: &Core,
    region: &Region<'_>,
    unit: &GatedUnit,
    gate: Option<&Weight>,
    rows: usize,
    s: &mut Scratch,
) -> Result<()> {
    gated_unit(core, region, unit, rows, s)?;
    let Some(gate) = gate else { return Ok(()) };
    let scores = &mut s.router[..rows];
    let weights = core.resident.matrix(gate)?;
    matmul(
        region,
        core.precision,
        &mut [Product { weights, input: &s.input, input_rows: None, output: scores }],
    );
    scores.iter_mut().for_each(|score| *score = ops::sigmoid(*score));
    ops::scale_rows(region, &mut s.branch[..rows * core.hyper.hidden], scores);
    Ok(())
}

/// Computes the leased experts for their tokens; results go to `expert_out` from row `done` on. Returns how
/// many rows.
fn experts(
    core: &Core,
    region: &Region<'_>,
    block: &MoeBlock,
    leases: &[Lease<'_>],
    done: usize,
    s: &mut Scratch,
    routing: &mut Routing,
) -> Result<usize> {
    let precision = core.precision;
    let (inner, hidden) = (block.gate.rows, core.hyper.hidden);
    let mut products = Vec::with_capacity(2 * leases.len());
    let (mut gate, mut up) = (&mut s.gate[..], &mut s.up[..]);
    let mut rows = 0;
    for lease in leases {
        let range = routing.range(lease.index());
        let input_rows = Some(&routing.tokens[range.clone()]);
        let (gate_out, gate_rest) = gate.split_at_mut(range.len() * inner);
        let (up_out, up_rest) = up.split_at_mut(range.len() * inner);
        (gate, up) = (gate_rest, up_rest);
        let weights = block.gate.of(lease, 0)?;
        products.push(Product { weights, input: &s.input, input_rows, output: gate_out });
        let weights = block.up.of(lease, 1)?;
        products.push(Product { weights, input: &s.input, input_rows, output: up_out });
        for entry in range.clone() {
            routing.result[routing.slots[entry] as usize] = (done + rows + entry - range.start) as u32;
        }
        rows += range.len();
    }
    matmul(region, precision, &mut products);
    s.clock.lap(region, Stage::ExpertsGateUp);
    let counts: Vec<(u32, usize)> =
        leases.iter().map(|lease| (lease.index(), routing.range(lease.index()).len())).collect();
    let (gate, up) = (&mut s.gate[..rows * inner], &mut s.up[..rows * inner]);
    if let Some(biases) = &block.biases {
        add_biases(core, region, &biases.gate, &counts, gate, &mut s.expert_bias)?;
        add_biases(core, region, &biases.up, &counts, up, &mut s.expert_bias)?;
    }
    s.inner.set_gated(region, rows, inner, block.shape.glu, gate, up, precision);
    s.clock.lap(region, Stage::Activation);
    let mut products = Vec::with_capacity(leases.len());
    let mut out = &mut s.expert_out[done * hidden..(done + rows) * hidden];
    let mut first = 0;
    for lease in leases {
        let count = routing.range(lease.index()).len();
        let (output, rest) = out.split_at_mut(count * hidden);
        out = rest;
        let weights = block.down.of(lease, 2)?;
        let input_rows = Some(&routing.count[first..first + count]);
        products.push(Product { weights, input: &s.inner, input_rows, output });
        first += count;
    }
    matmul(region, precision, &mut products);
    if let Some(biases) = &block.biases {
        let out = &mut s.expert_out[done * hidden..(done + rows) * hidden];
        add_biases(core, region, &biases.down, &counts, out, &mut s.expert_bias)?;
    }
    s.clock.lap(region, Stage::ExpertsDown);
    Ok(rows)
}

/// Rewrites experts that have been used, if they are used time and again, and sooner while the pass waits for others anyway.
fn rewrite(
    region: &Region<'_>,
    block: &MoeBlock,
    mut leases: Vec<Lease<'_>>,
    request: &Request<'_>,
) -> Result<()> {
    // What still lacks slots gets these, and is read the sooner.
    if request.lacks_slots() {
        return Ok(());
    }
    let is_due = |lease: &Lease<'_>| {
        let uses = if request.is_ready() { USES_BEFORE_REWRITING } else { USES_WHILE_WAITING };
        !lease.is_rewritten() && lease.uses() >= uses
    };
    leases.retain(is_due);
    for lease in leases {
        if is_due(&lease) {
            lease.rewrite(|parts| block.rewrite(region, parts))?;
        }
    }
    Ok(())
}

/// Adds to the rows of each expert, of which `counts` has the number, its bias.
fn add_biases(
    core: &Core,
    region: &Region<'_>,
    biases: &Weight,
    counts: &[(u32, usize)],
    mut x: &mut [f32],
    scratch: &mut [f32],
) -> Result<()> {
    let bias = &mut scratch[..biases.cols];
    for &(expert, count) in counts {
        let (rows, rest) = x.split_at_mut(count * biases.cols);
        x = rest;
        core.resident.row(biases, expert as usize, bias)?;
        ops::add_bias(region, rows, bias);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_are_as_many_experts_as_fit() {
        let wave = |rows: &[usize]| wave(rows.iter().copied(), 10);
        assert_eq!([wave(&[4, 6, 1]), wave(&[4, 7, 1]), wave(&[11, 1]), wave(&[10])], [2, 1, 1, 1]);
        assert!(wave_rows(768, 2) > 200 && wave_rows(1 << 30, 1) == 0);
    }
}
