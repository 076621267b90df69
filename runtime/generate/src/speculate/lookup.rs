//! Prompt lookup: what followed the last tokens where they stood before.

/// Longest match that is looked for, in tokens.
const LONGEST: usize = 16;
/// How far back a match is looked for, in tokens: it bounds the time of a look.
const REACH: usize = 1 << 16;

/// Drafts of what follows `tokens` and `next`, at most `most` and at least one, and of how many tokens the match is that they
/// stand behind. The longest match wins, and of several the last. Where it reaches into the drafts, they repeat.
pub(super) fn guess(tokens: &[u32], next: u32, most: usize) -> Option<(usize, Vec<u32>)> {
    let (at, matched) = longest(tokens, next)?;
    let mut drafts = Vec::with_capacity(most);
    for place in at + 1..at + 1 + most {
        let draft = match place.checked_sub(tokens.len()) {
            None => tokens[place],
            Some(0) => next,
            Some(behind) => drafts[behind - 1],
        };
        drafts.push(draft);
    }
    (!drafts.is_empty()).then_some((matched, drafts))
}

/// Where the longest match of the last tokens ends, and its length.
fn longest(tokens: &[u32], next: u32) -> Option<(usize, usize)> {
    let mut best = None;
    for at in (tokens.len().saturating_sub(REACH)..tokens.len()).rev().filter(|&at| tokens[at] == next) {
        let before = tokens[..at].iter().rev().zip(tokens.iter().rev()).take(LONGEST - 1);
        let matched = 1 + before.take_while(|(a, b)| a == b).count();
        if best.is_none_or(|(_, longest)| matched > longest) {
            best = Some((at, matched));
        }
        if matched == LONGEST {
            break;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_and_last_match_is_continued() {
        let tokens = [1, 2, 3, 9, 2, 3, 8, 1, 2];
        assert_eq!(guess(&tokens, 3, 2), Some((3, vec![9, 2])));
        assert_eq!(guess(&[5, 3, 7, 6, 3, 8, 4], 3, 2), Some((1, vec![8, 4])));
        assert_eq!(guess(&tokens, 7, 2), None);
        assert_eq!(guess(&[], 7, 2), None);
        assert_eq!(guess(&tokens, 3, 0), None);
    }

    #[test]
    fn what_repeats_goes_on_repeating() {
        assert_eq!(guess(&[1, 2, 1], 2, 5), Some((2, vec![1, 2, 1, 2, 1])));
        assert_eq!(guess(&[4], 4, 3), Some((1, vec![4, 4, 4])));
    }

    #[test]
    fn a_look_is_bounded() {
        let mut tokens = vec![7; 2 * REACH];
        tokens[0] = 5;
        assert_eq!(guess(&tokens, 5, 4), None);
        assert_eq!(guess(&tokens, 7, 1), Some((LONGEST, vec![7])));
    }
}
