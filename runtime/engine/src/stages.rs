//! Where the time of forward passes goes, by stages on the thread that drives them.

use std::time::Instant;

use membrane_kernels::Region;
use serde::{Deserialize, Serialize};

/// A part of a forward pass. What is short and between two of them counts to the later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Rows of the embedding.
    Embedding,
    /// Rows of tables of n-grams, and what is made of them.
    Ngrams,
    /// Norms before mixers, feed-forwards and the head; what they give is quantised.
    Norms,
    /// Queries, keys, values and output of attention.
    AttentionProjections,
    /// Attention itself: positions, the cache, scores and sums.
    Attention,
    /// Inputs, gates and output of delta-nets.
    DeltaProjections,
    /// Delta-nets themselves: convolution and states.
    DeltaNet,
    /// Gates and ups of dense feed-forwards and of shared experts.
    DenseGateUp,
    /// Downs of dense feed-forwards and of shared experts.
    DenseDown,
    /// Scores of experts, the choice among them, and asking the pager for them.
    Router,
    /// Waiting for experts that are read from disk.
    Waiting,
    /// Gates and ups of experts.
    ExpertsGateUp,
    /// Activation functions between the matrices of feed-forwards; what they give is quantised.
    Activation,
    /// Downs of experts.
    ExpertsDown,
    /// Rewriting experts that are used time and again where they are in memory.
    Rewriting,
    /// Weighted sums of what experts gave.
    Combine,
    /// Adding to the residual stream, and looking whether it is finite.
    Residual,
    /// Logits.
    Head,
}

impl Stage {
    /// All of them, in the order of a pass.
    pub const ALL: [Self; 18] = [
        Self::Embedding,
        Self::Ngrams,
        Self::Norms,
        Self::AttentionProjections,
        Self::Attention,
        Self::DeltaProjections,
        Self::DeltaNet,
        Self::DenseGateUp,
        Self::DenseDown,
        Self::Router,
        Self::Waiting,
        Self::ExpertsGateUp,
        Self::Activation,
        Self::ExpertsDown,
        Self::Rewriting,
        Self::Combine,
        Self::Residual,
        Self::Head,
    ];

    /// What it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Ngrams => "n-grams",
            Self::Norms => "norms",
            Self::AttentionProjections => "attention projections",
            Self::Attention => "attention",
            Self::DeltaProjections => "delta-net projections",
            Self::DeltaNet => "delta-net",
            Self::DenseGateUp => "dense gate and up",
            Self::DenseDown => "dense down",
            Self::Router => "router",
            Self::Waiting => "waiting for experts",
            Self::ExpertsGateUp => "experts gate and up",
            Self::Activation => "activation",
            Self::ExpertsDown => "experts down",
            Self::Rewriting => "rewriting experts",
            Self::Combine => "combine",
            Self::Residual => "residual",
            Self::Head => "output head",
        }
    }
}

/// What a stage took in all passes together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTime {
    /// Wall time of the thread that drives the passes, in nanoseconds.
    pub ns: u64,
    /// Bytes of the weights that matrix products went over, each matrix once a product.
    pub weight_bytes: u64,
}

/// What all stages took, in the order of [`Stage::ALL`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StageTimes([StageTime; Stage::ALL.len()]);

impl StageTimes {
    /// What one stage took.
    pub fn of(&self, stage: Stage) -> StageTime {
        self.0[stage as usize]
    }
}

/// Laps of the passes, one a stage, if anybody wants them.
#[derive(Default)]
pub(crate) struct StageClock {
    running: Option<Box<Laps>>,
}

struct Laps {
    begin: Instant,
    /// What [`Region::weight_bytes`] was then.
    weight_bytes: u64,
    times: StageTimes,
}

impl StageClock {
    /// Measures from now on, from zero; or no longer. Gives what was measured until now.
    pub fn restart(&mut self, on: bool) -> StageTimes {
        let laps = || Laps { begin: Instant::now(), weight_bytes: 0, times: StageTimes::default() };
        let before = std::mem::replace(&mut self.running, on.then(|| Box::new(laps())));
        before.map(|laps| laps.times).unwrap_or_default()
    }

    /// A pass begins: what was before it is no stage.
    #[inline]
    pub fn start(&mut self, region: &Region<'_>) {
        if let Some(laps) = &mut self.running {
            (laps.begin, laps.weight_bytes) = (Instant::now(), region.weight_bytes());
        }
    }

    /// The stage ends that has begun where the last one ended.
    #[inline]
    pub fn lap(&mut self, region: &Region<'_>, stage: Stage) {
        if let Some(laps) = &mut self.running {
            laps.end(region, stage);
        }
    }
}

impl Laps {
    fn end(&mut self, region: &Region<'_>, stage: Stage) {
        let (now, weight_bytes) = (Instant::now(), region.weight_bytes());
        let time = &mut self.times.0[stage as usize];
        time.ns += (now - self.begin).as_nanos() as u64;
        time.weight_bytes += weight_bytes.saturating_sub(self.weight_bytes);
        (self.begin, self.weight_bytes) = (now, weight_bytes);
    }
}

#[cfg(test)]
mod tests {
    use membrane_kernels::{Isa, Team};

    use super::*;

    #[test]
    fn every_stage_has_its_place_and_name() {
        let mut names: Vec<&str> = Stage::ALL.iter().map(|stage| stage.name()).collect();
        assert!(Stage::ALL.iter().enumerate().all(|(place, &stage)| place == stage as usize));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Stage::ALL.len());
    }

    #[test]
    fn a_lap_is_the_time_since_the_last_one_and_a_clock_that_is_off_has_none() {
        Team::new(1, Isa::detect()).region(|region| {
            let mut clock = StageClock::default();
            clock.start(region);
            clock.lap(region, Stage::Head);
            assert_eq!(clock.restart(true), StageTimes::default());
            std::thread::sleep(std::time::Duration::from_millis(5));
            clock.start(region);
            clock.lap(region, Stage::Norms);
            std::thread::sleep(std::time::Duration::from_millis(5));
            clock.lap(region, Stage::Head);
            let times = clock.restart(false);
            assert!(times.of(Stage::Head).ns >= 5_000_000, "{times:?}");
            assert!(times.of(Stage::Norms).ns < times.of(Stage::Head).ns, "{times:?}");
            clock.lap(region, Stage::Head);
            assert_eq!(clock.restart(false), StageTimes::default());
        });
    }
}
