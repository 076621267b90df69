//! Damage to inputs, the same on every run. Fuzzers have their own; this is for the regression test.

/// xorshift64*.
pub struct Random(u64);

impl Random {
    /// Of a seed; 0 is taken for another.
    pub fn new(seed: u64) -> Self {
        Self(if seed == 0 { 0x9e37_79b9_7f4a_7c15 } else { seed })
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// Numbers that break size arithmetic, in binary files.
const NASTY: [u64; 12] = [
    0,
    1,
    31,
    0xff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 31,
    u64::MAX,
];

/// And in texts.
const NASTY_TEXTS: [&str; 8] =
    ["0", "-1", "1e999", "4294967296", "18446744073709551616", "\u{1b}[2J", "\u{feff}", "null"];

/// Damages `bytes` in one to four places.
pub fn mutate(bytes: &mut Vec<u8>, words: &[&str], random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        once(bytes, words, random);
    }
}

fn once(bytes: &mut Vec<u8>, words: &[&str], random: &mut Random) {
    if bytes.is_empty() {
        bytes.push(random.below(256) as u8);
    }
    let at = random.below(bytes.len());
    match random.below(9) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.below(256) as u8,
        2 => {
            let nasty = NASTY[random.below(NASTY.len())].to_le_bytes();
            let width = [1, 2, 4, 8][random.below(4)].min(bytes.len() - at);
            bytes[at..at + width].copy_from_slice(&nasty[..width]);
        }
        3 => bytes.truncate(at),
        4 => {
            let end = (at + 1 + random.below(16)).min(bytes.len());
            bytes.drain(at..end);
        }
        5 => {
            let from = random.below(bytes.len());
            let copy = bytes[from..(from + 1 + random.below(64)).min(bytes.len())].to_vec();
            bytes.splice(at..at, copy);
        }
        6 => {
            let other = random.below(bytes.len());
            bytes.swap(at, other);
        }
        7 => {
            let text = NASTY_TEXTS[random.below(NASTY_TEXTS.len())];
            bytes.splice(at..at, text.bytes());
        }
        _ => {
            let word = if words.is_empty() { "" } else { words[random.below(words.len())] };
            bytes.splice(at..at, word.bytes());
        }
    }
}
