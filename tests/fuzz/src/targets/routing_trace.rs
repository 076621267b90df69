//! A trace of routing, written and read again, and played through the pager's bookkeeping.

use membrane_pager::{Asked, EvictionPolicy, Phase, Trace, TraceHeader, optimum, simulate};

use super::shown;

/// The lines of a trace.
pub const WORDS: &[&str] = &[
    "membrane routing trace 1",
    "model ",
    "slots ",
    " of ",
    " bytes",
    "group ",
    " experts of ",
    "prompt",
    "decode",
    "0 1: ",
    "0 9: 1*2 3",
];

/// Most experts of a trace that is played: a header of some bytes may speak of half a million.
const PLAYED_EXPERTS: usize = 4096;

/// Reads it, writes it and reads that; plays it with few slots.
pub fn target(data: &[u8]) {
    let trace = match Trace::read(data) {
        Ok(trace) => trace,
        Err(error) => return shown(&error),
    };
    let mut written = Vec::new();
    trace.write(&mut written).expect("memory takes what is written");
    let again = Trace::read(&written[..]).expect("a written trace that can be read");
    assert!(again.requests().eq(trace.requests()) && again.header().groups == trace.header().groups);
    if trace.header().experts() > PLAYED_EXPERTS {
        return;
    }
    // What names more experts than there are slots can have more hits by chance than by the optimum, as its documentation says.
    let widest = trace.requests().map(|asked| asked.experts.len()).max().unwrap_or(0);
    for slots in [1, 3] {
        let best = match optimum(&trace, slots) {
            Ok(best) => best.all(),
            Err(error) => return shown(&error),
        };
        for policy in EvictionPolicy::ALL {
            let found = simulate(&trace, slots, policy.start()).expect("what the optimum played").all();
            assert!(found.hits <= best.hits || widest > slots, "{policy:?}");
            assert_eq!(found.requests, found.hits + found.misses, "{policy:?}");
        }
    }
}

/// A prompt and some tokens behind it; no requests at all.
pub fn seeds() -> Vec<Vec<u8>> {
    let header =
        || TraceHeader { model: "m".into(), slots: 3, slot_bytes: 4096, groups: vec![(4, 4000), (3, 90)] };
    let mut trace = Trace::new(header()).expect("a valid header");
    let mut push = |phase, group, rows, experts: &[(u32, u32)]| {
        trace.push(Asked { phase, group, rows, experts }).expect("a valid request");
    };
    push(Phase::Prompt, 0, 5, &[(0, 2), (3, 5)]);
    push(Phase::Prompt, 1, 5, &[(1, 1), (2, 4)]);
    for token in 0..4 {
        push(Phase::Decode, 0, 1, &[(token, 1)]);
        push(Phase::Decode, 1, 1, &[(0, 1), (2, 1)]);
    }
    let empty = Trace::new(header()).expect("a valid header");
    let written = |trace: &Trace| {
        let mut bytes = Vec::new();
        trace.write(&mut bytes).expect("memory takes what is written");
        bytes
    };
    vec![written(&trace), written(&empty)]
}
