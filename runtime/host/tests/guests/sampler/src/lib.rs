//! A sampler that does what its parameter `mode` says.

use membrane_plugin::log;
use membrane_plugin::sampler::{Choice, Sampler, all_logits, history, logits, random, vocabulary};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    mode: String,
}

struct Test(Parameters);

impl Sampler for Test {
    type Parameters = Parameters;

    fn new(parameters: Parameters) -> Result<Self, String> {
        match parameters.mode.as_str() {
            "configure-error" => Err("no\u{1b}[31m such\u{7} luck".to_owned()),
            "configure-loop" => forever(),
            _ => Ok(Self(parameters)),
        }
    }

    fn sample(&mut self) -> Result<Choice, String> {
        match self.0.mode.as_str() {
            "loop" => forever(),
            "memory" => {
                let mut hoard: Vec<Vec<u8>> = Vec::new();
                loop {
                    hoard.push(vec![hoard.len() as u8; 1 << 20]);
                }
            }
            "recursion" => Ok(Choice::Token(deeper(1))),
            "wide-recursion" => Ok(Choice::Token(wider(1))),
            "panic" => panic!("on\u{1b}[31m purpose"),
            "out-of-vocabulary" => Ok(Choice::Token(u32::MAX)),
            "masked" => {
                logits::mask(logits::MaskKind::Forbid, &[2])?;
                Ok(Choice::Token(2))
            }
            "mask-all" => {
                let all: Vec<u32> = (0..vocabulary::size()).collect();
                logits::mask(logits::MaskKind::Forbid, &all)?;
                Ok(Choice::Pass)
            }
            "nan" => {
                all_logits::write(&vec![f32::NAN; vocabulary::size() as usize])?;
                Ok(Choice::Pass)
            }
            "reverse" => {
                let mut all = all_logits::read();
                all.iter_mut().for_each(|logit| *logit = -*logit);
                all_logits::write(&all)?;
                Ok(Choice::Pass)
            }
            "host-work" => loop {
                logits::apply(&[logits::Operation::Typical(0.5)])?;
            },
            "flood" => {
                for line in 0..1_000 {
                    log::info(&format!("\u{1b}[2J{line}\r\nforged\u{202e}{}", "x".repeat(5000)));
                }
                Ok(Choice::Token(logits::greedy()?.token))
            }
            "long-error" => Err("\u{1b}]0;title\u{7}".repeat(3_000_000)),
            "too-long-error" => Err("x".repeat(50 << 20)),
            "bad-parameter" => {
                logits::apply(&[logits::Operation::TopP(f32::NAN)])?;
                Ok(Choice::Pass)
            }
            "infinite" => {
                all_logits::write(&vec![f32::INFINITY; vocabulary::size() as usize])?;
                Ok(Choice::Pass)
            }
            "few" => {
                all_logits::write(&[0.0; 5])?;
                Ok(Choice::Pass)
            }
            "bias-nan" => bias(1, f32::NAN),
            "bias-beyond" => bias(u32::MAX, 1.0),
            "bias-sum" => {
                for _ in 0..3 {
                    bias(3, f32::MAX)?;
                }
                Ok(Choice::Token(logits::greedy()?.token))
            }
            "mask-beyond" => {
                logits::mask(logits::MaskKind::Allow, &[u32::MAX])?;
                Ok(Choice::Pass)
            }
            "breakers" => {
                let breakers = vec!["\n".to_owned(); 100_000];
                let dry = logits::Dry { multiplier: 1.0, base: 2.0, allowed_length: 2, last: -1, breakers };
                logits::apply(&[logits::Operation::Dry(dry)])?;
                Ok(Choice::Pass)
            }
            "encode" => {
                vocabulary::encode(&"7 ".repeat(1 << 20))?;
                Ok(Choice::Pass)
            }
            "encode-forever" => {
                let text = "7 ".repeat(1 << 20);
                loop {
                    let _ = vocabulary::encode(&text);
                }
            }
            "apply-forever" => {
                let nothing = vec![logits::Operation::LogitBias(Vec::new()); 100_000];
                loop {
                    logits::apply(&nothing)?;
                }
            }
            "count-prompt" => Ok(Choice::Token(history::tail(u32::MAX).len() as u32)),
            "count-down" => {
                let token = history::tail(1).first().map_or(0, |last| last.saturating_sub(1));
                Ok(Choice::Token(token))
            }
            "draw" => Ok(Choice::Token(logits::draw()?.token)),
            "random" => Ok(Choice::Token((random::next() % u64::from(vocabulary::size())) as u32)),
            "pass" => Ok(Choice::Pass),
            other => Err(format!("there is no mode {other}")),
        }
    }
}

fn bias(token: u32, bias: f32) -> Result<Choice, String> {
    logits::add(&[logits::Bias { token, bias }]).map(|()| Choice::Pass)
}

fn forever<T>() -> T {
    let mut count = 0u64;
    loop {
        count = std::hint::black_box(count.wrapping_add(1));
    }
}

/// Keeps nothing in memory, so that it is the host's stack that ends.
fn deeper(depth: u32) -> u32 {
    if depth == 0 {
        return 0;
    }
    deeper(depth.wrapping_add(1)).rotate_left(deeper(depth.wrapping_add(2)) % 32)
}

/// Keeps much in memory, so that it is the guest's own stack that ends.
fn wider(depth: u32) -> u32 {
    let frame = [depth; 4096];
    std::hint::black_box(&frame);
    if depth == 0 { 0 } else { wider(depth.wrapping_add(1)).wrapping_add(frame[depth as usize % 4096]) }
}

membrane_plugin::export_sampler!(Test);
