//! Floats of 8 bits (e4m3: a sign, 4 bits of exponent, 3 of fraction; no infinity) under scales that are f32, as they are read
//! from published FP8 checkpoints: 32 elements share a scale, which stands before them.

/// What each byte stands for. Both NaNs, 0x7F and 0xFF, are NaN.
pub(crate) const FLOAT8_VALUES: [f32; 256] = {
    let mut floats = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (exponent, fraction) = (byte as u32 >> 3 & 15, byte as u32 & 7);
        let (significand, exponent) = if exponent == 0 { (fraction, 1) } else { (8 + fraction, exponent) };
        // Bias 7 and 3 bits of fraction.
        let magnitude = significand as f32 * f32::from_bits((exponent + 127 - 10) << 23);
        floats[byte] = if byte & 0x7F == 0x7F {
            f32::NAN
        } else if byte & 0x80 == 0 {
            magnitude
        } else {
            -magnitude
        };
        byte += 1;
    }
    floats
};

/// Bytes of the scale of a block.
const SCALE_BYTES: usize = 4;

/// The floats of one block: scale * element, rounded.
pub(super) fn dequantise(block: &[u8], out: &mut [f32]) {
    let (scale, elements) = block.split_at(SCALE_BYTES);
    let scale = f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]);
    for (byte, out) in elements.iter().zip(out) {
        *out = scale * FLOAT8_VALUES[usize::from(*byte)];
    }
}

/// Appends one block: the largest magnitude becomes the largest float of 8 bits.
pub(super) fn encode(x: &[f32], out: &mut Vec<u8>) {
    const LARGEST: f32 = 448.0;
    let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let scale = largest / LARGEST;
    out.extend(scale.to_le_bytes());
    let inverse = super::encode::inverse(scale);
    out.extend(x.iter().map(|x| nearest(x * inverse)));
}

/// The code next to `x`; of two as near, the even one.
fn nearest(x: f32) -> u8 {
    const LARGEST: u8 = 0x7E;
    let distance = |code: u8| (FLOAT8_VALUES[usize::from(code)] - x.abs()).abs();
    // The codes of magnitudes ascend as the magnitudes do.
    let above = FLOAT8_VALUES[..=usize::from(LARGEST)].partition_point(|value| *value < x.abs()) as u8;
    let (above, below) = (above.min(LARGEST), above.saturating_sub(1));
    let code = match distance(above).total_cmp(&distance(below)) {
        std::cmp::Ordering::Less => above,
        std::cmp::Ordering::Greater => below,
        std::cmp::Ordering::Equal if above % 2 == 0 => above,
        std::cmp::Ordering::Equal => below,
    };
    code | u8::from(x < 0.0) << 7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_for_what_the_format_says() {
        let found = |byte: usize| FLOAT8_VALUES[byte];
        assert_eq!((found(0), found(1), found(8)), (0.0, 1.0 / 512.0, 1.0 / 64.0));
        assert_eq!((found(0x38), found(0x7E), found(0xFE)), (1.0, 448.0, -448.0));
        assert!(found(0x7F).is_nan() && found(0xFF).is_nan());
        for byte in (0..=255u8).filter(|byte| byte & 0x7F != 0x7F && *byte != 0x80) {
            assert_eq!(nearest(found(usize::from(byte))), byte);
        }
        assert_eq!((nearest(1000.0), nearest(-1000.0)), (0x7E, 0xFE));
    }
}
