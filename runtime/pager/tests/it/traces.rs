//! Recordings of real pagers, played through the simulator; and drawn routing, on which policies are compared.

use std::io::Write;
use std::sync::{Arc, Mutex};

use membrane_pager::{
    Asked, Counters, EvictionPolicy, IoMode, Outcome, Pager, PagerConfig, Phase, Trace, TraceError,
    TraceHeader, Wanted, optimum, simulate,
};

use crate::bank::{Bank, Random};

/// Memory that a recording is written to.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn pager(bank: &Bank, slots: usize, policy: EvictionPolicy) -> Pager {
    let mut config = PagerConfig::new(bank.catalog().slot_bytes() * slots as u64);
    config.io = IoMode::Direct;
    config.eviction = policy.start();
    Pager::open(&bank.files, bank.catalog(), config).unwrap()
}

/// What depends on the requests alone.
fn exact(counters: &Counters) -> [u64; 7] {
    let Counters { batches, requests, hits, misses, joined, evictions, record_bytes, .. } = *counters;
    [batches, requests, hits, misses, joined, evictions, record_bytes]
}

/// Phase, group, rows, and experts with their uses.
type Pass = (Phase, u32, u32, Vec<(u32, u32)>);

/// Passes of a prompt and an answer.
fn passes(groups: &[usize], seed: u64) -> Vec<Pass> {
    let mut random = Random(seed);
    let mut passes = Vec::new();
    for round in 0..60 {
        let rows = if round % 20 == 0 { 9 } else { 1 };
        let phase = if round % 20 == 0 { Phase::Prompt } else { Phase::Decode };
        for (group, &experts) in groups.iter().enumerate().filter(|(_, experts)| **experts > 0) {
            let most = if rows > 1 { experts } else { 3.min(experts) };
            let count = 1 + random.below(most as u64) as usize;
            let limit = if random.below(3) > 0 { experts.div_ceil(2).max(count) } else { experts };
            let wanted = random.distinct(count, limit as u32);
            let uses = |expert| (expert, 1 + random.below(u64::from(rows)) as u32);
            passes.push((phase, group as u32, rows, wanted.into_iter().map(uses).collect()));
        }
    }
    passes
}

/// Drives a pager; leases are given back in whatever order they arrive, by other threads at times.
fn drive(bank: &Bank, pager: &Pager, passes: &[Pass]) {
    for (at, (phase, group, rows, experts)) in passes.iter().enumerate() {
        pager.mark(*phase);
        let (experts, uses): (Vec<u32>, Vec<u32>) = experts.iter().copied().unzip();
        let wanted = Wanted { group: *group, experts: &experts, rows: *rows, uses: &uses };
        let mut request = pager.request_for(&wanted);
        while let Some(ready) = request.next_ready().unwrap() {
            if at % 7 == 0 {
                let leases = ready.leases.into_iter().rev();
                std::thread::scope(|scope| leases.for_each(|lease| drop(scope.spawn(move || drop(lease)))));
            } else if at % 5 == 0 {
                // Which is no request.
                ready.leases.into_iter().for_each(|lease| bank.check(&lease.rewrite(|_| ()).unwrap()));
            } else {
                ready.leases.iter().for_each(|lease| bank.check(lease));
            }
        }
    }
}

#[test]
fn a_recording_played_again_has_the_counters_of_the_run() {
    let groups = [12, 0, 9, 16];
    let bank = Bank::new(2, &groups, 3_000);
    for policy in EvictionPolicy::ALL {
        // From one slot, far fewer than a request names, to one for each expert.
        for slots in [1, 2, 5, 8, 14, 25, 36, 37] {
            let passes = passes(&groups, 5 + slots as u64);
            let pager = pager(&bank, slots, policy);
            pager.warm().unwrap();
            let text = Shared::default();
            let before = pager.counters();
            pager.record("some model", Box::new(text.clone()));
            drive(&bank, &pager, &passes);
            pager.end_recording().unwrap();
            let counters = pager.counters() - before;
            bank.fetch(&pager, 0, &[1]);

            let trace = Trace::read(&text.0.lock().unwrap()[..]).unwrap();
            assert_eq!((trace.header().model.as_str(), trace.header().slots), ("some model", slots));
            assert_eq!(trace.requests().count(), passes.len(), "what came after the end is not in it");
            let outcome = simulate(&trace, slots, policy.start()).unwrap();
            let (mut played, mut real) = (exact(&outcome.all()), exact(&counters));
            // Records differ in length here, and a trace has the longest of each layer.
            (played[6], real[6]) = (0, 0);
            assert_eq!(played, real, "{} with {slots} slots", policy.name());
            assert!(outcome.prompt.requests > 0 && outcome.decode.requests > 0);
            assert!(counters.rewritten > 0 && outcome.all().rewritten == 0);
        }
    }
}

#[test]
fn a_trace_survives_being_written_and_read() {
    let groups = vec![(4, 5000), (0, 0), (3, 7000)];
    let model = "a model\u{1b}[31m\nof two lines".into();
    let mut trace = Trace::new(TraceHeader { model, slots: 4, slot_bytes: 8192, groups }).unwrap();
    for (phase, group, rows, experts) in passes(&[4, 0, 3], 11) {
        trace.push(Asked { phase, group, rows, experts: &experts }).unwrap();
    }
    let mut text = Vec::new();
    trace.write(&mut text).unwrap();
    let read = Trace::read(&text[..]).unwrap();
    assert_eq!(read.header().model, "a model [31m of two lines");
    assert_eq!(read.header().groups, trace.header().groups);
    assert!(read.requests().eq(trace.requests()) && read.requests().count() == 120);
}

fn header(layers: usize, experts: usize) -> TraceHeader {
    TraceHeader { model: "drawn".into(), slots: 0, slot_bytes: 4096, groups: vec![(experts, 4096); layers] }
}

/// Routing by popularity (Zipf with the exponent `skew`), of which each choice stays for the next token with the probability
/// `stay`; what is popular changes a little every 100 tokens. The first `prompt` tokens are one pass.
fn drawn(
    layers: usize,
    experts: usize,
    top_k: usize,
    skew: f64,
    stay: f64,
    prompt: usize,
    tokens: usize,
) -> Trace {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let unit = move |random: &mut Random| random.below(1 << 30) as f64 / f64::from(1 << 30);
    let mut popular: Vec<Vec<u32>> = (0..layers).map(|_| random.distinct(experts, experts as u32)).collect();
    let weights: Vec<f64> = (0..experts).map(|at| (at as f64 + 1.0).powf(-skew)).collect();
    let total: f64 = weights.iter().sum();
    let mut chosen: Vec<Vec<Vec<u32>>> = Vec::new();
    for token in 0..tokens {
        let mut row: Vec<Vec<u32>> = Vec::new();
        for layer in 0..layers {
            if token % 100 == 99 {
                let (a, b) = (random.below(experts as u64), random.below(experts as u64));
                popular[layer].swap(a as usize, b as usize);
            }
            let before = chosen.last().map(|row| row[layer].clone()).unwrap_or_default();
            let mut experts_of: Vec<u32> = before.into_iter().filter(|_| unit(&mut random) < stay).collect();
            while experts_of.len() < top_k {
                let mut left = unit(&mut random) * total;
                let at = weights.iter().position(|weight| {
                    left -= weight;
                    left < 0.0
                });
                let expert = popular[layer][at.unwrap_or(experts - 1)];
                if !experts_of.contains(&expert) {
                    experts_of.push(expert);
                }
            }
            experts_of.sort_unstable();
            row.push(experts_of);
        }
        chosen.push(row);
    }
    let mut trace = Trace::new(header(layers, experts)).unwrap();
    for layer in 0..layers {
        let uses = |expert: u32| {
            let of_prompt = chosen[..prompt].iter();
            (expert, of_prompt.filter(|row| row[layer].contains(&expert)).count() as u32)
        };
        let experts: Vec<_> = (0..experts as u32).map(uses).filter(|&(_, uses)| uses > 0).collect();
        if prompt > 0 {
            let (phase, group, rows) = (Phase::Prompt, layer as u32, prompt as u32);
            trace.push(Asked { phase, group, rows, experts: &experts }).unwrap();
        }
    }
    for row in &chosen[prompt..] {
        for (group, experts) in (0..).zip(row) {
            let experts: Vec<_> = experts.iter().map(|&expert| (expert, 1)).collect();
            trace.push(Asked { phase: Phase::Decode, group, rows: 1, experts: &experts }).unwrap();
        }
    }
    trace
}

fn hits(outcome: &Outcome) -> u64 {
    outcome.decode.hits
}

/// Bars of the default policy: half of the optimum's hits on skewed routing, also where the experts of one token don't fit; and as
/// many as LRU on any, but for that very number of slots, at which LRU keeps what the last token used and nothing else.
#[test]
fn the_default_policy_beats_lru_on_drawn_routing() {
    let (layers, experts, top_k) = (24, 32, 4);
    let cliff = layers * top_k;
    for (skew, stay, prompt) in
        [(1.0, 0.0, 0), (1.2, 0.2, 150), (1.0, 0.5, 0), (0.7, 0.3, 0), (0.0, 0.3, 100), (0.0, 0.0, 0)]
    {
        let trace = drawn(layers, experts, top_k, skew, stay, prompt, 400);
        for slots in
            [cliff / 4, cliff / 2, cliff * 3 / 4, cliff, cliff * 3 / 2, cliff * 2, cliff * 4, cliff * 6]
        {
            let best = optimum(&trace, slots).unwrap();
            let of = |policy: EvictionPolicy| simulate(&trace, slots, policy.start()).unwrap();
            let (ours, lru) = (of(EvictionPolicy::default()), of(EvictionPolicy::Lru));
            let told = format!(
                "skew {skew}, stay {stay}, {slots} slots: {} of {} by the optimum, {} by lru",
                hits(&ours),
                hits(&best),
                hits(&lru)
            );
            assert!(hits(&ours) <= best.decode.requests && best.all().hits >= ours.all().hits, "{told}");
            assert!(skew < 1.0 || 2 * hits(&ours) >= hits(&best), "{told}");
            let share = if slots == cliff { 0.9 } else { 1.0 };
            assert!(hits(&ours) as f64 >= share * hits(&lru) as f64, "{told}");
        }
    }
}

/// No order of victims that can be tried has fewer misses than the optimum.
#[test]
fn the_optimum_is_the_best_of_all_choices() {
    /// Fewest misses from here on, by trying every victim.
    fn fewest(requests: &[Vec<u32>], held: &[u32], slots: usize) -> usize {
        let Some((wanted, rest)) = requests.split_first() else { return 0 };
        let missing: Vec<u32> = wanted.iter().copied().filter(|expert| !held.contains(expert)).collect();
        let others: Vec<u32> = held.iter().copied().filter(|expert| !wanted.contains(expert)).collect();
        let leave = (held.len() + missing.len()).saturating_sub(slots);
        let mut best = usize::MAX;
        for subset in 0u32..1 << others.len() {
            if subset.count_ones() as usize != leave {
                continue;
            }
            let kept = others.iter().enumerate().filter(|(at, _)| subset & (1 << at) == 0).map(|(_, &e)| e);
            let next: Vec<u32> = wanted.iter().copied().chain(kept).collect();
            best = best.min(missing.len() + fewest(rest, &next, slots));
        }
        best
    }
    let mut random = Random(99);
    for slots in [2, 3, 4] {
        for _ in 0..20 {
            let count = |random: &mut Random| 1 + random.below(2) as usize;
            let requests: Vec<Vec<u32>> = (0..8)
                .map(|_| {
                    let count = count(&mut random);
                    random.distinct(count, 6)
                })
                .collect();
            let mut trace = Trace::new(header(1, 6)).unwrap();
            for experts in &requests {
                let experts: Vec<_> = experts.iter().map(|&expert| (expert, 1)).collect();
                trace.push(Asked { phase: Phase::Decode, group: 0, rows: 1, experts: &experts }).unwrap();
            }
            let found = optimum(&trace, slots).unwrap().decode;
            assert_eq!(found.misses as usize, fewest(&requests, &[], slots), "{slots} slots: {requests:?}");
            assert_eq!(found.hits + found.misses, found.requests);
        }
    }
}

#[test]
fn damaged_traces_are_refused_with_the_line() {
    let good = "membrane routing trace 1\nmodel m\nslots 2 of 4096 bytes\ngroup 4 experts of 100 bytes\n";
    let read = |text: &str| Trace::read(text.as_bytes());
    assert_eq!(read(&format!("{good}decode\n0 1: 0 3\n0 2: 1*2 2\n")).unwrap().requests().count(), 2);
    assert_eq!(read(good).unwrap().requests().count(), 0);
    for (tail, line, rule) in [
        ("1 1: 0\n", 5, "there are 1"),
        ("0 1: 4\n", 5, "group 0 has 4"),
        ("0 1: 1 1\n", 5, "named twice"),
        ("0 1:\n", 5, "no expert"),
        ("0 1: 1", 5, "no end"),
        ("0 0: 1\n", 5, "pass of 0"),
        ("0 4294967295: 1\n", 5, "pass of"),
        ("0 2: 1*3\n", 5, "used by 3 of 2"),
        ("0 2: 1*0\n", 5, "used by 0"),
        ("decode\n\nprompts\n", 7, "belongs here"),
        ("0 1: x\n", 5, "belongs here"),
        ("0 1: 99999999999999999999\n", 5, "belongs here"),
        ("0: 1\n", 5, "belongs here"),
        ("group 1048576 experts of 100 bytes\n", 5, "more than"),
        ("group 18446744073709551615 experts of 1 bytes\n", 5, "more than"),
        ("group 1 experts of 18446744073709551615 bytes\n", 6, "terabyte"),
        ("group 1 experts of -1 bytes\n", 5, "belongs here"),
    ] {
        let error = read(&format!("{good}{tail}")).unwrap_err();
        assert!(matches!(error, TraceError::Line { line: found, .. } if found == line), "{tail}: {error}");
        assert!(error.to_string().contains(rule), "{tail}: {error}");
    }
    for text in
        ["", "\n", "membrane routing trace 2\n", "GGUF", "membrane routing trace 1\nslots", &good[..60]]
    {
        assert!(matches!(read(text), Err(TraceError::Line { line: 1..=4, .. })), "{text}");
    }
    let groups = "group 1 experts of 1 bytes\n".repeat(5000);
    assert!(read(&format!("{good}{groups}")).is_err());
    let endless = std::io::BufReader::new(std::io::repeat(b'7'));
    assert!(Trace::read(endless).unwrap_err().to_string().contains("longer"), "a line has an end");
    let mut bytes = good.as_bytes().to_vec();
    bytes.extend([0xff, 0xfe]);
    assert!(matches!(Trace::read(&bytes[..]), Err(TraceError::Read { line: 5, .. })));
}
