//! What a block reads of the residual streams, and how it adds to them.

use membrane_kernels::{Product, Region, matmul, ops};

use crate::error::Result;
use crate::model::Core;
use crate::scratch::{STREAM_ROWS, Scratch};
use crate::weights::{InputNorm, StreamMixer, Weight};

/// normed = what a block reads of `rows` rows of the streams from row `from` on.
pub(super) fn read(
    core: &Core,
    region: &Region<'_>,
    norm: &InputNorm,
    from: usize,
    rows: usize,
    s: &mut Scratch,
) -> Result<()> {
    let hidden = core.hyper.hidden;
    match norm {
        InputNorm::Rms(weight) => {
            let x = &s.hidden[from * hidden..(from + rows) * hidden];
            ops::rms_norm(region, x, weight, core.hyper.norm_eps, &mut s.normed[..rows * hidden]);
            Ok(())
        }
        InputNorm::Streams(mixer) => (0..rows)
            .step_by(STREAM_ROWS)
            .try_for_each(|first| mix(core, region, mixer, from, first..(first + STREAM_ROWS).min(rows), s)),
    }
}

/// Mixes some rows, and computes the shares by which their block adds to the streams.
fn mix(
    core: &Core,
    region: &Region<'_>,
    mixer: &StreamMixer,
    from: usize,
    rows: std::ops::Range<usize>,
    s: &mut Scratch,
) -> Result<()> {
    let (hidden, width, streams) = (core.hyper.hidden, core.hyper.stream_width(), core.hyper.streams());
    let n = rows.len();
    let work = &mut s.streams;
    let x = &s.hidden[(from + rows.start) * width..(from + rows.end) * width];
    let normed = &mut work.normed[..n * width];
    ops::rms_norm_streams(region, x, &mixer.norm, streams, core.hyper.norm_eps, normed);
    work.input.set(region, n, width, normed, core.precision);
    let product = |weight: &Weight| core.resident.matrix(weight);
    let low = &mut work.low[..n * mixer.down.rows];
    let shares = &mut work.shares[rows.start * streams..rows.end * streams];
    let mut products =
        vec![Product { weights: product(&mixer.down)?, input: &work.input, input_rows: None, output: low }];
    if let Some(inject) = &mixer.inject {
        products.push(Product {
            weights: product(inject)?,
            input: &work.input,
            input_rows: None,
            output: shares,
        });
    }
    matmul(region, core.precision, &mut products);
    let low = &mut work.low[..n * mixer.down.rows];
    ops::silu(region, low, streams as f32);
    work.input.set(region, n, mixer.down.rows, low, core.precision);
    let gate = &mut work.gate[..n * width];
    let weights = product(&mixer.up)?;
    matmul(
        region,
        core.precision,
        &mut [Product { weights, input: &work.input, input_rows: None, output: gate }],
    );
    let out = &mut s.normed[rows.start * hidden..rows.end * hidden];
    ops::mix_streams(region, normed, gate, streams, out, hidden);
    Ok(())
}

/// streams += branch, to each by its share where there are several.
pub(super) fn write(core: &Core, region: &Region<'_>, rows: usize, s: &mut Scratch) {
    let (hidden, streams) = (core.hyper.hidden, core.hyper.streams());
    let (x, branch) = (&mut s.hidden[..rows * hidden * streams], &s.branch[..rows * hidden]);
    if core.hyper.connections.is_some() {
        ops::add_to_streams(region, branch, &s.streams.shares[..rows * streams], streams, x);
    } else {
        ops::add(region, x, branch);
    }
}
