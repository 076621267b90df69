//! The plain reference: tokens as pairs in double precision, sorted as a whole before every stage.

use std::collections::HashMap;

use membrane_host::Vocabulary;
use membrane_host::sampling::{Dry, Operation, Temperature, Xtc};

/// Tokens in the running with their logits, best first.
type Tokens = Vec<(u32, f64)>;

/// The distribution after a chain, one probability for each token of the vocabulary.
pub fn distribution(
    logits: &[f32],
    operations: &[Operation],
    history: &[u32],
    vocabulary: &dyn Vocabulary,
    random: &mut dyn FnMut() -> u64,
) -> Vec<f64> {
    let mut tokens: Tokens = (0..).zip(logits.iter().map(|logit| f64::from(*logit))).collect();
    tokens.retain(|(_, logit)| *logit > f64::NEG_INFINITY);
    for operation in operations {
        sort(&mut tokens);
        tokens = apply(operation, tokens, history, vocabulary, random);
        tokens.retain(|(_, logit)| *logit > f64::NEG_INFINITY);
    }
    sort(&mut tokens);
    let mut all = vec![0.0; logits.len()];
    for ((token, _), probability) in tokens.iter().zip(softmax(&tokens)) {
        all[*token as usize] = probability;
    }
    all
}

fn sort(tokens: &mut Tokens) {
    tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
}

fn softmax(tokens: &Tokens) -> Vec<f64> {
    let largest = tokens.iter().map(|(_, logit)| *logit).fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = tokens.iter().map(|(_, logit)| (logit - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

fn apply(
    operation: &Operation,
    tokens: Tokens,
    history: &[u32],
    vocabulary: &dyn Vocabulary,
    random: &mut dyn FnMut() -> u64,
) -> Tokens {
    let probabilities = softmax(&tokens);
    let first = |n: usize| tokens[..n.clamp(1, tokens.len())].to_vec();
    match operation {
        Operation::LogitBias(biases) => {
            let added =
                |token| biases.iter().filter(|(t, _)| *t == token).map(|(_, b)| f64::from(*b)).sum::<f64>();
            tokens.iter().map(|(token, logit)| (*token, logit + added(*token))).collect()
        }
        Operation::Penalties(p) => {
            let last = back(history, p.last);
            let penalised = |(token, logit): &(u32, f64)| {
                let count = last.iter().filter(|t| *t == token).count() as f64;
                if count == 0.0 {
                    return (*token, *logit);
                }
                let repeat = f64::from(p.repeat);
                let logit = if *logit > 0.0 { logit / repeat } else { logit * repeat };
                (*token, logit - count * f64::from(p.frequency) - f64::from(p.presence))
            };
            tokens.iter().map(penalised).collect()
        }
        Operation::Dry(parameters) => dry(parameters, tokens, history, vocabulary),
        Operation::TopNSigma(n) if *n > 0.0 => {
            let count = tokens.len() as f64;
            let mean = tokens.iter().map(|(_, logit)| logit).sum::<f64>() / count;
            let variance = tokens.iter().map(|(_, logit)| (logit - mean).powi(2)).sum::<f64>() / count;
            let least = tokens[0].1 - f64::from(*n) * variance.sqrt();
            first(tokens.iter().filter(|(_, logit)| *logit >= least).count())
        }
        Operation::TopK(k) if *k > 0 => first(*k as usize),
        Operation::Typical(p) if *p < 1.0 => typical(f64::from(*p), &tokens, &probabilities),
        Operation::TopP(p) if *p < 1.0 => {
            let mut sum = 0.0;
            let reached = probabilities.iter().position(|probability| {
                sum += probability;
                sum >= f64::from(*p)
            });
            first(reached.map_or(tokens.len(), |index| index + 1))
        }
        Operation::MinP(p) if *p > 0.0 => {
            let least = probabilities[0] * f64::from(*p);
            first(probabilities.iter().filter(|probability| **probability >= least).count())
        }
        Operation::Xtc(parameters) => xtc(parameters, tokens, &probabilities, random),
        Operation::Temperature(parameters) => temperature(parameters, tokens, &probabilities),
        Operation::SurpriseLimit(bits) => {
            first(probabilities.iter().filter(|p| -p.log2() <= f64::from(*bits)).count())
        }
        _ => tokens,
    }
}

fn back(history: &[u32], last: i32) -> &[u32] {
    if last < 0 { history } else { &history[history.len() - history.len().min(last as usize)..] }
}

fn typical(p: f64, tokens: &Tokens, probabilities: &[f64]) -> Tokens {
    let entropy: f64 = probabilities.iter().map(|p| if *p > 0.0 { -p * p.ln() } else { 0.0 }).sum();
    let mut order: Vec<usize> = (0..tokens.len()).collect();
    order.sort_by(|a, b| {
        let shift = |i: usize| (-probabilities[i].ln() - entropy).abs();
        shift(*a).total_cmp(&shift(*b))
    });
    let mut kept = Tokens::new();
    let mut sum = 0.0;
    for index in order {
        kept.push(tokens[index]);
        sum += probabilities[index];
        if sum > p {
            break;
        }
    }
    kept
}

fn xtc(xtc: &Xtc, tokens: Tokens, probabilities: &[f64], random: &mut dyn FnMut() -> u64) -> Tokens {
    if xtc.probability <= 0.0 || xtc.threshold > 0.5 {
        return tokens;
    }
    let chance = (random() >> 11) as f64 / (1u64 << 53) as f64;
    let top_choices = probabilities.iter().filter(|p| **p >= f64::from(xtc.threshold)).count();
    if chance >= f64::from(xtc.probability) || top_choices < 2 {
        return tokens;
    }
    tokens[top_choices - 1..].to_vec()
}

fn temperature(parameters: &Temperature, tokens: Tokens, probabilities: &[f64]) -> Tokens {
    let mut temperature = f64::from(parameters.temperature);
    if parameters.range > 0.0 {
        if tokens.len() == 1 {
            return tokens;
        }
        let entropy: f64 = probabilities.iter().map(|p| if *p > 0.0 { -p * p.ln() } else { 0.0 }).sum();
        let least = (temperature - f64::from(parameters.range)).max(0.0);
        let most = temperature + f64::from(parameters.range);
        let normalised = entropy / (tokens.len() as f64).ln();
        temperature = least + (most - least) * normalised.powf(f64::from(parameters.exponent));
    }
    if temperature <= 0.0 {
        return tokens[..1].to_vec();
    }
    tokens.into_iter().map(|(token, logit)| (token, logit / temperature)).collect()
}

/// For every token the longest repetition that it would continue, found by trying all of them.
fn dry(dry: &Dry, tokens: Tokens, history: &[u32], vocabulary: &dyn Vocabulary) -> Tokens {
    let last = back(history, dry.last);
    let allowed = dry.allowed_length as usize;
    if dry.multiplier == 0.0 || dry.base < 1.0 || last.len() <= allowed {
        return tokens;
    }
    let limit = after_last_breaker(last, &dry.breakers, vocabulary);
    if limit < allowed {
        return tokens;
    }
    let mut longest: HashMap<u32, usize> = HashMap::new();
    for end in 1..last.len() {
        let length =
            (0..=end).rev().find(|n| last[end - n..end] == last[last.len() - n..]).unwrap().min(limit);
        if length >= allowed {
            let entry = longest.entry(last[end]).or_default();
            *entry = (*entry).max(length);
        }
    }
    let is_breaker = |token: u32| {
        let text = String::from_utf8_lossy(vocabulary.bytes_of(token).unwrap()).into_owned();
        dry.breakers.iter().any(|breaker| text.contains(breaker.as_str()))
    };
    let penalised = |(token, logit): (u32, f64)| match longest.get(&token) {
        Some(length) if !is_breaker(token) => {
            let penalty = f64::from(dry.multiplier) * f64::from(dry.base).powi((length - allowed) as i32);
            (token, logit - penalty)
        }
        _ => (token, logit),
    };
    tokens.into_iter().map(penalised).collect()
}

/// How many tokens follow the last breaker, which may reach over several tokens.
fn after_last_breaker(tokens: &[u32], breakers: &[String], vocabulary: &dyn Vocabulary) -> usize {
    let text = |token: u32| String::from_utf8_lossy(vocabulary.bytes_of(token).unwrap()).into_owned();
    for start in (0..tokens.len()).rev() {
        let head = text(tokens[start]);
        let mut longest = None;
        for breaker in breakers {
            if head.contains(breaker.as_str()) {
                longest = longest.max(Some(0));
            }
            for split in 1..breaker.len() {
                let Ok(tail) = vocabulary.encode(&breaker[split..]) else { continue };
                if head.ends_with(&breaker[..split]) && tokens[start + 1..].starts_with(&tail) {
                    longest = longest.max(Some(tail.len()));
                }
            }
        }
        if let Some(length) = longest {
            return tokens.len() - start - 1 - length;
        }
    }
    tokens.len()
}
