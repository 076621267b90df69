//! Causal attention over a cache of keys and values in blocks.
//!
//! Canonical, for one query and head: score = dot(q, k) in 16 lanes and the tree, times the scale, for each
//! position; e = e^(score - max); their sum in 16 lanes (lane = position % 16) and the tree; each output
//! element the sum of e * v over the positions in order, one `fma` each from 0, divided by the sum of e. The
//! positions are all up to the query's own, or the last of these that a window has. A sink of the head is one more
//! score: it counts in the maximum, and its e is added to the sum last.
//! Nothing depends on how the queries came in, so a prompt at once and token by token give the same bits.
//!
//! The unit of work is a tile: some queries times the heads that share a key head, so that a key or value is
//! read and widened once for all of them. A single query is done otherwise, since reading the cache is most
//! of its cost: its steps are cut along positions and output columns, and each thread goes through its share
//! of the cache in the order of memory, all its heads at a position before the next. Halves are then widened
//! as they are multiplied where the instruction set has room for that.

mod cache;
mod tile;
mod widen;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::format::Format;
use crate::parallel::{DisjointSlice, Region};
use crate::simd::{LANES, Lanes};
use cache::Cache;
use tile::{PANEL, Part, Scores, Tile, finish, gather, score, soften_row, weigh};

/// Most rows (queries times heads) of a tile: a key or value is widened once for all of them.
const MOST_ROWS: usize = 64;
/// Rows of a tile, at least, however long their scores are; fewer only where several queries have too few for all threads. A
/// single query is cut otherwise.
const LEAST_ROWS: usize = 16;
/// Floats of scores that a tile has while it has more than [`LEAST_ROWS`]: 1 MiB, which the second cache holds.
const TILE_SCORES: usize = 1 << 18;
/// Tiles of a thread, at least, before tiles get more than [`LEAST_ROWS`], so that threads end together.
const TILES_A_THREAD: usize = 4;
/// Multiplications below which one query is not worth a second thread.
const INLINE_WORK: usize = 128 * 1024;
/// Positions whose scores are one task when a single query is cut.
const SPLIT_POSITIONS: usize = 128;
/// Output columns that a task gets at least when a single query is cut; in f16 one cache line.
const SPLIT_COLUMNS: usize = 32;

/// Keys or values of one block of positions: `[block_len, kv_heads * dim]`, row-major.
#[derive(Clone, Copy, Debug)]
pub enum KvSlice<'a> {
    /// IEEE half precision.
    F16(&'a [u16]),
    /// Single precision.
    F32(&'a [f32]),
    /// Rows of blocks of Q8_0 ([`Format::Q8_0`]); heads are whole blocks.
    Q8_0(&'a [u8]),
    /// Rows of blocks of Q4_0 ([`Format::Q4_0`]); heads are whole blocks.
    Q4_0(&'a [u8]),
}

impl KvSlice<'_> {
    /// Some of its positions, of `width` numbers each.
    ///
    /// # Panics
    /// If it has not so many.
    pub fn part(self, positions: Range<usize>, width: usize) -> Self {
        let numbers = positions.start * width..positions.end * width;
        let bytes = self.bytes(numbers.start)..self.bytes(numbers.end);
        match self {
            Self::F16(x) => Self::F16(&x[numbers]),
            Self::F32(x) => Self::F32(&x[numbers]),
            Self::Q8_0(x) => Self::Q8_0(&x[bytes]),
            Self::Q4_0(x) => Self::Q4_0(&x[bytes]),
        }
    }

    /// Where it begins.
    fn start(self) -> *const u8 {
        match self {
            Self::F16(x) => x.as_ptr().cast(),
            Self::F32(x) => x.as_ptr().cast(),
            Self::Q8_0(x) | Self::Q4_0(x) => x.as_ptr(),
        }
    }

    /// Bytes of so many numbers, which are whole blocks.
    fn bytes(self, numbers: usize) -> usize {
        let in_blocks = |format: Format| numbers / format.block_elems() * format.block_bytes();
        match self {
            Self::F16(_) => numbers * size_of::<u16>(),
            Self::F32(_) => numbers * size_of::<f32>(),
            Self::Q8_0(_) => in_blocks(Format::Q8_0),
            Self::Q4_0(_) => in_blocks(Format::Q4_0),
        }
    }

    /// Whether it has `positions` rows of `width` numbers.
    fn holds(&self, positions: usize, width: usize) -> bool {
        let blocks =
            |format: Format, bytes: usize| format.row_bytes(width).map(|row| row * positions) == Some(bytes);
        match self {
            Self::F16(x) => x.len() == positions * width,
            Self::F32(x) => x.len() == positions * width,
            Self::Q8_0(bytes) => blocks(Format::Q8_0, bytes.len()),
            Self::Q4_0(bytes) => blocks(Format::Q4_0, bytes.len()),
        }
    }

    /// Whether heads of this many numbers can be taken out of its rows.
    fn has_heads_of(&self, width: usize) -> bool {
        match self {
            Self::F16(_) | Self::F32(_) => true,
            Self::Q8_0(_) => width.is_multiple_of(Format::Q8_0.block_elems()),
            Self::Q4_0(_) => width.is_multiple_of(Format::Q4_0.block_elems()),
        }
    }
}

/// One call of [`attention`].
pub struct AttentionArgs<'a> {
    /// Queries, rotated: `[n, heads, head_dim]`.
    pub q: &'a [f32],
    /// Blocks of keys: each `[block_len, kv_heads * head_dim]`; those of the new queries are already in it.
    pub keys: &'a [KvSlice<'a>],
    /// Blocks of values: each `[block_len, value_stride]`.
    pub values: &'a [KvSlice<'a>],
    /// Elements of a position in the blocks of values, the first `kv_heads * value_dim` of which are the values.
    pub value_stride: usize,
    /// Positions in a block.
    pub block_len: usize,
    /// Position of the first query; query i attends to the positions up to `first_position + i`.
    pub first_position: usize,
    /// Queries.
    pub n: usize,
    /// Query heads; a multiple of `kv_heads`. Head h uses key head `h / (heads / kv_heads)`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a query and a key.
    pub head_dim: usize,
    /// Width of a value.
    pub value_dim: usize,
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Most positions that a query attends to, its own included; the last ones.
    pub window: Option<usize>,
    /// A score of each head that no position has: `[heads]`.
    pub sinks: Option<&'a [f32]>,
    /// The result: `[n, heads, value_dim]`.
    pub out: &'a mut [f32],
}

/// Memory that [`attention`] works in, made once.
pub struct AttentionScratch {
    context: usize,
    scores: Vec<f32>, // rows of the positions rounded up to LANES: of each head, or of a tile of each thread
    sums: Vec<f32>,   // [heads]
    workers: Vec<Worker>,
}

/// What a thread needs for a tile, or for all heads of one query, beside the scores; `rows` is the greater of
/// [`MOST_ROWS`] and the heads.
struct Worker {
    queries: Vec<Lanes>, // [rows, head_dim in vectors]
    panel: Vec<Lanes>,   // [PANEL, wider of head_dim and value_dim in vectors]
    mixed: Vec<Lanes>,   // [rows, value_dim in vectors]
}

impl AttentionScratch {
    /// Scratch for up to `heads` query heads of up to `width` columns, positions below `context` and teams of up to `threads`.
    pub fn new(heads: usize, width: usize, context: usize, threads: usize) -> Self {
        let vectors = width.div_ceil(LANES);
        let worker = |_| {
            let mut worker = Worker { queries: Vec::new(), panel: Vec::new(), mixed: Vec::new() };
            worker.fit(heads, vectors, vectors);
            worker
        };
        Self {
            context,
            scores: vec![0.0; score_floats(heads, context, threads)],
            sums: vec![0.0; heads],
            workers: (0..threads.max(1)).map(worker).collect(),
        }
    }

    /// Bytes of such scratch.
    pub fn bytes(heads: usize, width: usize, context: usize, threads: usize) -> usize {
        let worker = (2 * heads.max(MOST_ROWS) + PANEL) * width.div_ceil(LANES) * size_of::<Lanes>();
        (score_floats(heads, context, threads) + heads) * size_of::<f32>() + threads.max(1) * worker
    }
}

impl Worker {
    /// Makes room for `heads` of these widths; it has that already, unless they are wider than it was made for.
    fn fit(&mut self, heads: usize, key_vectors: usize, value_vectors: usize) {
        let grow = |lanes: &mut Vec<Lanes>, len: usize| lanes.resize(lanes.len().max(len), Lanes::ZERO);
        let rows = heads.max(MOST_ROWS);
        grow(&mut self.queries, rows * key_vectors);
        grow(&mut self.panel, PANEL * key_vectors.max(value_vectors));
        grow(&mut self.mixed, rows * value_vectors);
    }
}

/// Floats that the scores of one query need, and those of a tile for each thread, behind any context up to this one.
fn score_floats(heads: usize, context: usize, threads: usize) -> usize {
    let stride = context.next_multiple_of(LANES);
    let tile = (LEAST_ROWS * stride).max((MOST_ROWS * stride).min(TILE_SCORES));
    (heads * stride).max(threads.max(1) * tile)
}

/// Attention of `n` new queries over the cache; see the module for the order of its arithmetic.
///
/// # Panics
/// If a length does not fit, or the positions or heads are more than those that the scratch was made for.
pub fn attention(region: &Region<'_>, args: AttentionArgs<'_>, scratch: &mut AttentionScratch) {
    check(&args, scratch);
    if args.n == 0 || args.heads == 0 {
        return;
    }
    let (key_vectors, value_vectors) = (args.head_dim.div_ceil(LANES), args.value_dim.div_ceil(LANES));
    scratch.workers.iter_mut().for_each(|worker| worker.fit(args.heads, key_vectors, value_vectors));
    let threads = region.threads().min(scratch.workers.len());
    let call = Call::new(args, threads);
    if call.n > 1 {
        by_tiles(region, &call, scratch, threads);
    } else if (call.total - call.begin(0)) * call.heads * (call.head_dim + call.value_dim) < INLINE_WORK {
        single(region, &call, scratch, 1);
    } else {
        single(region, &call, scratch, threads);
    }
}

fn check(args: &AttentionArgs<'_>, scratch: &AttentionScratch) {
    let total = args.first_position + args.n;
    let fits = |slices: &[KvSlice<'_>], width: usize| {
        slices.len() * args.block_len >= total
            && slices.iter().all(|slice| slice.holds(args.block_len, width))
    };
    let whole = |slices: &[KvSlice<'_>], width: usize| slices.iter().all(|slice| slice.has_heads_of(width));
    assert!(args.kv_heads > 0 && args.heads.is_multiple_of(args.kv_heads), "attention: heads are not groups");
    assert_eq!(args.q.len(), args.n * args.heads * args.head_dim, "attention: queries");
    assert_eq!(args.out.len(), args.n * args.heads * args.value_dim, "attention: output");
    assert!(fits(args.keys, args.kv_heads * args.head_dim), "attention: blocks of keys");
    assert!(
        args.kv_heads * args.value_dim <= args.value_stride,
        "attention: values are wider than their positions"
    );
    assert!(fits(args.values, args.value_stride), "attention: blocks of values");
    assert!(
        whole(args.keys, args.head_dim) && whole(args.values, args.value_dim),
        "attention: parts of blocks"
    );
    assert!(args.window != Some(0), "attention: a window of nothing");
    assert!(args.sinks.is_none_or(|sinks| sinks.len() == args.heads), "attention: sinks");
    assert!(total <= scratch.context, "attention: {total} positions, scratch for {}", scratch.context);
    assert!(args.heads <= scratch.sums.len(), "attention: {} heads are too many", args.heads);
}

/// The arguments and what follows from them.
struct Call<'a> {
    q: &'a [f32],
    keys: Cache<'a>,
    values: Cache<'a>,
    out: DisjointSlice<'a, f32>,
    heads: usize,
    head_dim: usize,
    value_dim: usize,
    scale: f32,
    window: usize,
    sinks: Option<&'a [f32]>,
    first: usize,
    n: usize,
    /// Positions in the cache that count.
    total: usize,
    /// Floats from one row of scores to the next.
    stride: usize,
    /// Heads that share a key head.
    group: usize,
    /// Rows that a tile has room for.
    tile_rows: usize,
    /// Of the heads of a group, how many are in a tile.
    tile_heads: usize,
    tile_queries: usize,
    tiles: usize,
}

impl<'a> Call<'a> {
    fn new(args: AttentionArgs<'a>, threads: usize) -> Self {
        let total = args.first_position + args.n;
        let stride = total.next_multiple_of(LANES);
        let group = args.heads / args.kv_heads;
        let rows = args.n * args.heads;
        let tile_rows = if args.n == 1 {
            LEAST_ROWS
        } else if rows < threads * LEAST_ROWS {
            rows.div_ceil(threads)
        } else {
            (rows / (threads * TILES_A_THREAD)).min(TILE_SCORES / stride).clamp(LEAST_ROWS, MOST_ROWS)
        };
        let tile_heads = group.min(tile_rows);
        let tile_queries = (tile_rows / tile_heads).min(args.n);
        Self {
            q: args.q,
            keys: Cache::new(args.keys, args.block_len, args.kv_heads * args.head_dim),
            values: Cache::new(args.values, args.block_len, args.value_stride),
            out: DisjointSlice::new(args.out),
            heads: args.heads,
            head_dim: args.head_dim,
            value_dim: args.value_dim,
            scale: args.scale,
            window: args.window.unwrap_or(usize::MAX),
            sinks: args.sinks,
            first: args.first_position,
            n: args.n,
            total,
            stride,
            group,
            tile_rows,
            tile_heads,
            tile_queries,
            tiles: args.kv_heads * group.div_ceil(tile_heads) * args.n.div_ceil(tile_queries),
        }
    }

    /// Where work for a query begins: its first position, rounded down to a panel.
    fn begin(&self, query: usize) -> usize {
        (self.first + query + 1).saturating_sub(self.window) / PANEL * PANEL
    }

    /// A tile; those with the longest contexts come first, so that threads end together.
    fn tile(&self, index: usize) -> Tile {
        let parts = self.group.div_ceil(self.tile_heads);
        let across = self.heads / self.group * parts;
        let query = (self.n.div_ceil(self.tile_queries) - 1 - index / across) * self.tile_queries;
        let (kv_head, part) = (index % across / parts, index % across % parts);
        Tile {
            query,
            queries: self.tile_queries.min(self.n - query),
            head: kv_head * self.group + part * self.tile_heads,
            heads: self.tile_heads.min(self.group - part * self.tile_heads),
            kv_head,
        }
    }
}

/// Runs `f` with the index of each task, a worker of its own and that worker's number.
fn on_workers(
    region: &Region<'_>,
    workers: &mut [Worker],
    tasks: usize,
    f: impl Fn(usize, &mut Worker, usize) + Sync,
) {
    let next = AtomicUsize::new(0);
    region.run_chunks(workers, 1, |number, worker| {
        for worker in worker {
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                f(task, worker, number);
            }
        }
    });
}

/// Each tile by one thread, from the scores to the output.
fn by_tiles(region: &Region<'_>, call: &Call<'_>, scratch: &mut AttentionScratch, threads: usize) {
    let isa = region.isa();
    let all = DisjointSlice::new(&mut scratch.scores);
    on_workers(region, &mut scratch.workers[..threads], call.tiles, |index, worker, number| {
        let part = Part { tile: call.tile(index), columns: 0..call.value_dim };
        let rows = part.tile.rows();
        let scores = Scores { all: &all, stride: call.stride, first_row: number * call.tile_rows };
        let positions = call.begin(part.tile.query)..part.tile.limit(call, rows - 1);
        gather(call, part.tile, &mut worker.queries);
        score(isa, call, part.tile, positions.clone(), &worker.queries, &mut worker.panel, scores);
        let mut sums = [0.0; MOST_ROWS];
        for (row, sum) in sums.iter_mut().enumerate().take(rows) {
            // SAFETY: the rows of scores of a worker are its own.
            *sum = unsafe { soften_row(isa, call, part.tile, row, scores) };
        }
        let mixed = &mut worker.mixed[..rows * part.vectors()];
        mixed.fill(Lanes::ZERO);
        weigh(isa, call, &part, positions, &mut worker.panel, scores, mixed);
        finish(isa, call, &part, mixed, &sums);
    });
}

/// One query. The row of a head in the scores, as in the queries of a worker, is its number.
fn single(region: &Region<'_>, call: &Call<'_>, scratch: &mut AttentionScratch, threads: usize) {
    let isa = region.isa();
    let all = DisjointSlice::new(&mut scratch.scores);
    let scores = |head| Scores { all: &all, stride: call.stride, first_row: head };
    let workers = &mut scratch.workers[..threads];
    let key_vectors = call.head_dim.div_ceil(LANES);
    let first = call.begin(0);
    on_workers(region, workers, (call.total - first).div_ceil(SPLIT_POSITIONS), |index, worker, _| {
        for tile in (0..call.tiles).map(|index| call.tile(index)) {
            gather(call, tile, &mut worker.queries[tile.head * key_vectors..]);
        }
        let end = (first + (index + 1) * SPLIT_POSITIONS).min(call.total);
        for begin in (first + index * SPLIT_POSITIONS..end).step_by(PANEL) {
            for tile in (0..call.tiles).map(|index| call.tile(index)) {
                let queries = &worker.queries[tile.head * key_vectors..];
                let positions = begin..(begin + PANEL).min(end);
                score(isa, call, tile, positions, queries, &mut worker.panel, scores(tile.head));
            }
        }
    });
    let heads_each = call.heads.div_ceil(threads);
    region.run_chunks(&mut scratch.sums[..call.heads], heads_each, |index, sums| {
        for (head, sum) in (index * heads_each..).zip(sums) {
            let tile = Tile { query: 0, queries: 1, head, heads: 1, kv_head: head / call.group };
            // SAFETY: each head has its row of scores and is in one task.
            *sum = unsafe { soften_row(isa, call, tile, 0, scores(head)) };
        }
    });
    let sums = &scratch.sums[..];
    // Columns of all tiles in the order of memory, an equal share for each thread.
    let pieces = if call.tiles.is_multiple_of(threads) { 1 } else { call.value_dim.div_ceil(SPLIT_COLUMNS) };
    let width = call.value_dim.div_ceil(pieces.max(1)).next_multiple_of(LANES);
    let part = |index: usize| {
        let begin = index % pieces * width;
        Part { tile: call.tile(index / pieces), columns: begin..(begin + width).min(call.value_dim) }
    };
    let parts = call.tiles * pieces;
    let parts_each = parts.div_ceil(threads);
    on_workers(region, workers, threads, |index, worker, _| {
        let parts = index * parts_each..((index + 1) * parts_each).min(parts);
        for begin in (first..call.total).step_by(PANEL) {
            let mut mixed = &mut worker.mixed[..];
            for part in parts.clone().map(part) {
                let positions = begin..(begin + PANEL).min(call.total);
                let (own, rest) = mixed.split_at_mut(part.tile.rows() * part.vectors());
                if begin == first {
                    own.fill(Lanes::ZERO);
                }
                weigh(isa, call, &part, positions, &mut worker.panel, scores(part.tile.head), own);
                mixed = rest;
            }
        }
        let mut mixed = &worker.mixed[..];
        for part in parts.map(part) {
            let (own, rest) = mixed.split_at(part.tile.rows() * part.vectors());
            finish(isa, call, &part, own, &sums[part.tile.head..]);
            mixed = rest;
        }
    });
}

#[cfg(test)]
mod tests;
