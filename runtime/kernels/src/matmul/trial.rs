//! A choice between instruction sets by the clock.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::{Activations, Matrix, Precision, Product, matmul};
use crate::format::Format;
use crate::isa::Isa;
use crate::parallel::Team;

/// The instruction set of this CPU that multiplies fastest. Whether that is AMX, a trial of some milliseconds decides, once.
pub fn fastest_isa() -> Isa {
    static FASTEST: LazyLock<Isa> = LazyLock::new(|| match Isa::Amx.or_slower() {
        Isa::Amx => faster(Isa::Amx, Isa::detect()),
        fastest => fastest,
    });
    *FASTEST
}

/// The one of two instruction sets with which a product of bytes takes less time, on one thread. The weights are of the type that
/// published models have most of, added up as they are where there are tiles, and the input has about as many rows as an expert of a
/// mixture gets of a long prompt.
fn faster(one: Isa, other: Isa) -> Isa {
    const FORMAT: Format = Format::Q4K;
    const ROWS: usize = 256;
    const COLS: usize = 4096;
    const INPUTS: usize = 48;
    const TURNS: usize = 8;
    let weights = vec![0; ROWS * COLS / FORMAT.block_elems() * FORMAT.block_bytes()];
    let Ok(weights) = Matrix::new(FORMAT, ROWS, COLS, &weights) else { return other };
    let (x, mut output) = (vec![1.0; INPUTS * COLS], vec![0.0; INPUTS * ROWS]);
    let mut input = Activations::new(INPUTS, COLS);
    let mut time = |isa| {
        Team::new(1, isa).region(|region| {
            input.set(region, INPUTS, COLS, &x, Precision::Int8Groups);
            let product = Product { weights, input: &input, input_rows: None, output: &mut output };
            let start = Instant::now();
            matmul(region, Precision::Int8Groups, &mut [product]);
            start.elapsed()
        })
    };
    let mut best = [Duration::MAX; 2];
    for _ in 0..TURNS {
        for (best, isa) in best.iter_mut().zip([one, other]) {
            *best = time(isa).min(*best);
        }
    }
    if best[0] < best[1] { one } else { other }
}
