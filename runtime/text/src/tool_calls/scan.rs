//! Where a JSON value ends, in text that comes piece by piece.

/// Follows a JSON object or array to its end.
#[derive(Debug, Default)]
pub(super) struct Scan {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

pub(super) enum Scanned {
    More,
    Done,
    Bad(&'static str),
}

impl Scan {
    /// Takes one character more.
    pub fn step(&mut self, character: char) -> Scanned {
        if self.in_string {
            match character {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => self.in_string = false,
                '\0'..='\x1f' => return Scanned::Bad("a string in it isn't closed"),
                _ => {}
            }
            return Scanned::More;
        }
        match character {
            '"' => self.in_string = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 0 {
                    return Scanned::Done;
                }
            }
            _ => {}
        }
        Scanned::More
    }
}
