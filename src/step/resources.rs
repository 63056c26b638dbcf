//! What a step asks of the machine while it runs, and what it is given. Neither enters a key.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// How many processors this process may use.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What a step asks of the machine while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Resources {
    /// Processors, and with them threads.
    pub cpus: Cpus,
    /// Memory in bytes, for the scheduler to count with: nothing holds a step
    /// to it. 0 when nothing was said.
    pub memory: u64,
    /// GPUs.
    pub gpus: Gpus,
    /// Shares of named pools.
    pub pools: BTreeMap<String, u64>,
}

impl Resources {
    /// As many processors as the machine has: for work that uses them well.
    pub fn all_cpus() -> Self {
        Resources {
            cpus: Cpus::All,
            ..Resources::default()
        }
    }
}

/// How many processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Cpus {
    /// So many, one at least.
    Count(u32),
    /// All that there are.
    All,
}

impl Default for Cpus {
    fn default() -> Self {
        Cpus::Count(1)
    }
}

/// How many GPUs: whole ones, or a share of one; in thousandths.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Gpus(u32);

impl Gpus {
    /// One whole GPU.
    pub const ONE: u32 = 1000;

    /// A number of GPUs; none unless it is whole or a share of at least a
    /// thousandth.
    pub fn new(gpus: f64) -> Option<Self> {
        let thousandths = (gpus * f64::from(Self::ONE)).round();
        let whole = gpus.fract() == 0.0 && (0.0..=100_000.0).contains(&gpus);
        let share = gpus > 0.0 && gpus < 1.0 && (1.0..1000.0).contains(&thousandths);
        (whole || share).then_some(Gpus(thousandths as u32))
    }

    /// In thousandths.
    pub fn thousandths(self) -> u32 {
        self.0
    }

    /// How many whole ones; 0 for a share.
    pub fn whole(self) -> usize {
        (self.0 / Self::ONE) as usize
    }

    /// The thousandths of the one GPU of which it is a share; 0 for whole ones.
    pub fn share(self) -> u32 {
        self.0 % Self::ONE
    }

    /// Whether none is asked for.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Gpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.0) / f64::from(Self::ONE))
    }
}

/// What a running step was given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// Processors, and with them threads.
    pub cpus: u32,
    /// Memory in bytes that was counted for it; 0 when nothing was said.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub memory: u64,
    /// The ids of its GPUs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
    /// How much of its one GPU is its own; none for whole ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_share: Option<f64>,
    /// Shares of named pools.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pools: BTreeMap<String, u64>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Whether a kind keeps checkpoints, from which an attempt of the same key goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Resumes {
    /// It does not.
    #[default]
    Never,
    /// Where a step says `checkpoint = true`.
    IfAsked,
    /// Unless a step says `checkpoint = false`.
    Always,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_whole_or_a_share_of_one() {
        let two = Gpus::new(2.0).unwrap();
        assert_eq!((two.whole(), two.share()), (2, 0));
        let half = Gpus::new(0.5).unwrap();
        assert_eq!((half.whole(), half.share()), (0, 500));
        assert!(Gpus::new(0.0).unwrap().is_none());
        assert_eq!(half.to_string() + &two.to_string(), "0.52");
        for wrong in [-1.0, 1.5, 0.0001, 0.9999, f64::NAN, f64::INFINITY, 1e9] {
            assert_eq!(Gpus::new(wrong), None, "{wrong}");
        }
    }
}
