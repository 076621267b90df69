//! Text that goes round in circles.

/// Looks for a stretch that stands several times in a row, as text arrives.
#[derive(Debug)]
pub struct Circle {
    repeats: usize,
    /// Length from which a circle counts.
    least: usize,
    /// The last characters; the newest is before `next`.
    ring: Vec<char>,
    next: usize,
    seen: usize,
    /// For each length from 1 on: how many of the last characters are each equal to the one that many before.
    equal: Vec<u32>,
}

impl Circle {
    /// Stretches of up to `longest` characters, `repeats` times in a row and `least` characters in all.
    pub fn new(repeats: usize, longest: usize, least: usize) -> Self {
        Self { repeats, least, ring: vec!['\0'; longest], next: 0, seen: 0, equal: vec![0; longest] }
    }

    /// Takes the next character. Gives the length of the shortest stretch with which it closes a circle.
    ///
    /// White space makes no circle by itself: it is how tables and code are laid out.
    pub fn closes(&mut self, character: char) -> Option<usize> {
        let longest = self.ring.len();
        for length in 1..=longest {
            let before = self.ring[(self.next + longest - length) % longest];
            let equal = &mut self.equal[length - 1];
            *equal = if length <= self.seen && before == character { equal.saturating_add(1) } else { 0 };
        }
        self.ring[self.next] = character;
        self.next = (self.next + 1) % longest;
        self.seen = self.seen.saturating_add(1);
        (1..=longest).find(|&length| {
            let all = self.equal[length - 1] as usize + length;
            all >= self.least.max(self.repeats * length) && !self.is_blank(length)
        })
    }

    /// Whether the last `length` characters are white space.
    fn is_blank(&self, length: usize) -> bool {
        let longest = self.ring.len();
        (1..=length).all(|back| self.ring[(self.next + longest - back) % longest].is_whitespace())
    }
}
