//! What a training run will hold in memory, counted before it begins, and what is free.
//!
//! The plan follows the code: a block's activations as [`super::block`] keeps
//! them, the rows of logits that exist at once, gradients and moments. It does
//! not depend on threads, so that it can stand in a recorded result.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::config::{ModelConfig, NormPlacement};
use super::eightbit::BLOCK;
use super::layout::Slot;
use super::lora::LoraConfig;
use super::matrix::Dtype;
use super::model::LOGIT_ROWS;
use super::optim::Precision;
use super::stopping::Keep;

/// Bytes of a number in f32.
const F32: usize = size_of::<f32>();
/// The program, its threads, the tokenizer.
const PROGRAM: usize = 16 << 20;
/// Words of a product's right side that are packed at once, at most.
const PACKED: usize = 1 << 20;
/// Columns of them.
const COLUMNS: usize = 1024;

/// A training run, as far as memory is concerned.
#[derive(Debug, Clone)]
pub struct Run<'a> {
    /// The model.
    pub config: &'a ModelConfig,
    /// The resolved adapter that is trained; all weights are where there is none.
    pub adapter: Option<&'a LoraConfig>,
    /// The most tokens in a micro-batch.
    pub tokens: usize,
    /// The longest sequence among them.
    pub longest: usize,
    /// Tokens of all data.
    pub data: usize,
    /// Whether blocks are run again in the backward pass.
    pub checkpointing: bool,
    /// What the frozen matrices are held in.
    pub dtype: Dtype,
    /// How the optimizer keeps its moments.
    pub optimizer: Precision,
    /// Which weights are the result: the best ones are held beside the last.
    pub keep: Keep,
}

/// Bytes by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The model's weights.
    pub weights: u64,
    /// What is trained beside them, the adapter, and the best weights so far where they are kept.
    pub adapter: u64,
    /// Gradients of what is trained.
    pub gradients: u64,
    /// The optimizer's moments.
    pub optimizer: u64,
    /// What the forward pass keeps for the backward pass.
    pub activations: u64,
    /// What is held for a moment at the peak: logits, a block's gradients, packed matrices.
    pub working: u64,
    /// The program and the data.
    pub program: u64,
    /// All of it.
    pub total: u64,
}

/// A change of parameters, and what the run would hold with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remedy {
    /// As the pipeline file would have it.
    pub parameters: String,
    /// Bytes in all.
    pub total: u64,
}

/// A run does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("training would hold {} in memory, and {} is free: {plan}", Bytes(plan.total), Bytes(*free))]
pub struct TooLarge {
    /// What it would hold.
    pub plan: Plan,
    /// What is free.
    pub free: u64,
    /// What would help, the least change first.
    pub remedies: Vec<Remedy>,
}

impl TooLarge {
    /// What to do about it, by how much each.
    pub fn hint(&self) -> String {
        let remedy = |r: &Remedy| format!("{} would hold {}", r.parameters, Bytes(r.total));
        let remedies: Vec<String> = self.remedies.iter().map(remedy).collect();
        match remedies.is_empty() {
            true => "take a smaller model, or a machine with more memory".to_owned(),
            false => remedies.join("; "),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("weights", self.weights),
            ("adapter", self.adapter),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
            ("working", self.working),
            ("program and data", self.program),
        ];
        let parts = parts.into_iter().filter(|(_, bytes)| *bytes > 0);
        let parts: Vec<String> = parts.map(|(n, b)| format!("{n} {}", Bytes(b))).collect();
        f.write_str(&parts.join(", "))
    }
}

/// Displays bytes in the unit that fits.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.0 as f64 / f64::from(1 << 20);
        match mib < 1024.0 {
            true => write!(f, "{mib:.0} MiB"),
            false => write!(f, "{:.1} GiB", mib / 1024.0),
        }
    }
}

impl Plan {
    /// What `run` will hold.
    pub fn new(run: &Run<'_>) -> Self {
        let element = match run.dtype {
            Dtype::F32 => F32,
            Dtype::Bf16 => size_of::<u16>(),
        };
        let weights = elements(run.config) * element;
        let adapter = run.adapter.map(|a| adapter_elements(a, run.config) * F32);
        let trained = adapter.unwrap_or(weights);
        let best = match run.keep {
            Keep::Last => 0,
            Keep::Best => trained,
        };
        let moments = match run.optimizer {
            Precision::AdamW => 2 * trained,
            // A byte each, and a scale for each block.
            Precision::AdamW8bit => 2 * (trained / F32 + trained / BLOCK),
        };
        let program = PROGRAM + run.data * 2 * F32;
        let parts = [
            weights,
            adapter.unwrap_or(0) + best,
            trained,
            moments,
            run.kept(),
            run.head().max(run.backward()),
            program,
        ];
        let [
            weights,
            adapter,
            gradients,
            optimizer,
            activations,
            working,
            program,
        ] = parts.map(|bytes| bytes as u64);
        Plan {
            weights,
            adapter,
            gradients,
            optimizer,
            activations,
            working,
            program,
            total: parts.iter().sum::<usize>() as u64,
        }
    }

    /// Refuses a run that holds more than is free; anything goes where that is not known.
    pub fn check(&self, run: &Run<'_>, free: Option<u64>) -> Result<(), TooLarge> {
        match free {
            Some(free) if self.total > free => Err(TooLarge {
                plan: *self,
                free,
                remedies: run.remedies(self.total),
            }),
            _ => Ok(()),
        }
    }
}

impl Run<'_> {
    /// Bytes that the forward pass keeps.
    fn kept(&self) -> usize {
        let a_block = match self.checkpointing {
            true => self.config.hidden_size,
            false => block(self.config),
        };
        self.config.layers * self.tokens * a_block * F32
    }

    /// Bytes beside what is kept while the head runs.
    fn head(&self) -> usize {
        let (hidden, vocabulary) = (self.config.hidden_size, self.config.vocab_size);
        let stream = 3 * self.tokens * hidden;
        let rows = LOGIT_ROWS.min(self.tokens);
        (stream + rows * (2 * hidden + vocabulary) + self.packed()) * F32
    }

    /// Bytes beside what is kept while the gradient of the MLP's output is
    /// made; the block is among them when it is run again.
    fn backward(&self) -> usize {
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let stream = match self.config.norm_placement {
            NormPlacement::Pre => hidden,
            NormPlacement::Post | NormPlacement::Both => 3 * hidden,
        };
        let down = stream + 2 * inner + self.linear(hidden, inner);
        let gate = stream + 2 * hidden + self.linear(inner, hidden);
        let again = match self.checkpointing {
            true => block(self.config) - hidden,
            false => 0,
        };
        (self.tokens * (again + down.max(gate)) + self.packed()) * F32
    }

    /// Numbers a token holds while an adapted layer's gradient is made.
    fn linear(&self, outputs: usize, inputs: usize) -> usize {
        let Some(adapter) = self.adapter else {
            return 0;
        };
        let dropped = if adapter.dropout > 0.0 { inputs } else { 0 };
        let magnified = match (adapter.dora, dropped) {
            (false, _) => 0,
            (true, 0) => outputs,
            (true, _) => 2 * outputs,
        };
        2 * adapter.rank + dropped + magnified
    }

    /// Words of the largest packed side of a product, which stay where they are for the next one.
    fn packed(&self) -> usize {
        let slots = Slot::ALL.iter().map(|slot| slot.size(self.config));
        let head = (self.config.vocab_size, self.config.hidden_size);
        let words = |n: usize, k: usize| (n.min(COLUMNS) * k).min(PACKED);
        let both = |(outputs, inputs)| words(outputs, inputs).max(words(inputs, outputs));
        slots.chain([head]).map(both).max().unwrap_or(0)
    }

    /// What would make the run smaller than `total`, each on its own and then together.
    fn remedies(&self, total: u64) -> Vec<Remedy> {
        let mut remedies = Vec::new();
        let mut add = |parameters: String, run: &Run<'_>| {
            let with = Plan::new(run).total;
            if with < total {
                let total = with;
                remedies.push(Remedy { parameters, total });
            }
        };
        let checkpointed = Run {
            checkpointing: true,
            ..self.clone()
        };
        if !self.checkpointing {
            add("gradient_checkpointing = true".to_owned(), &checkpointed);
        }
        if self.adapter.is_some() && self.dtype == Dtype::F32 {
            let dtype = Dtype::Bf16;
            let half = Run {
                dtype,
                ..self.clone()
            };
            add("dtype = \"bf16\"".to_owned(), &half);
        }
        for (run, before) in [
            (self, ""),
            (&checkpointed, "gradient_checkpointing = true and "),
        ] {
            if run.checkpointing == self.checkpointing && !before.is_empty() {
                continue;
            }
            let mut small = run.clone();
            let half = self.tokens / 2;
            if half >= self.longest {
                small.tokens = half;
                add(format!("{before}batch_tokens = {half}"), &small);
            }
            if self.longest > 2 {
                let half = self.longest / 2;
                (small.tokens, small.longest) = (half, half);
                add(
                    format!("{before}max_length = {half} with batch_tokens = {half}"),
                    &small,
                );
            }
        }
        remedies
    }
}

/// Elements of all weights.
fn elements(config: &ModelConfig) -> usize {
    let matrices: usize = Slot::ALL
        .iter()
        .map(|slot| slot.size(config))
        .map(|(outputs, inputs)| outputs * inputs)
        .sum();
    let heads = if config.tied { 1 } else { 2 };
    config.layers * matrices + heads * config.vocab_size * config.hidden_size
}

fn adapter_elements(adapter: &LoraConfig, config: &ModelConfig) -> usize {
    let of = |(outputs, inputs): (usize, usize)| {
        let magnitudes = if adapter.dora { outputs } else { 0 };
        adapter.rank * (outputs + inputs) + magnitudes
    };
    let modules = adapter.modules(config);
    modules
        .iter()
        .map(|module| of(module.slot.size(config)))
        .sum()
}

/// Numbers that a block keeps of a token.
pub(super) fn block(config: &ModelConfig) -> usize {
    let queries = config.heads * config.head_dim;
    let keys = config.kv_heads * config.head_dim;
    let normed = match config.norm_placement {
        NormPlacement::Pre => 0,
        NormPlacement::Post | NormPlacement::Both => config.hidden_size,
    };
    // Its input, queries, keys, values, what they attend to, the log-sum-exps,
    // the middle, gate and up, and the output of a branch with a norm.
    config.hidden_size
        + queries
        + 2 * keys
        + queries
        + config.heads
        + config.hidden_size
        + 2 * config.intermediate_size
        + normed
}

/// Bytes that this process can still have: what the machine has available,
/// reclaimable cache included, or where that is less what the control groups
/// of the process leave it. None where the system does not say.
pub fn free() -> Option<u64> {
    free_at(Path::new("/"))
}

fn free_at(root: &Path) -> Option<u64> {
    let machine = fields(&root.join("proc/meminfo"), &["MemAvailable"]).map(|kib| kib * 1024);
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let groups = groups.lines().flat_map(|line| group_folders(root, line));
    let left = groups.filter_map(|(folder, version)| left(&folder, version));
    left.chain(machine).min()
}

/// Which kind of control groups.
#[derive(Clone, Copy)]
enum Version {
    One,
    Two,
}

/// The folders of a group and all above it, from a line of `/proc/self/cgroup`.
fn group_folders(root: &Path, line: &str) -> Vec<(PathBuf, Version)> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
        return Vec::new();
    };
    let (mount, version) = match controllers {
        "" => ("sys/fs/cgroup", Version::Two),
        some if some.split(',').any(|name| name == "memory") => {
            ("sys/fs/cgroup/memory", Version::One)
        }
        _ => return Vec::new(),
    };
    let group = Path::new(path.trim_start_matches('/'));
    let above = group.ancestors();
    above
        .map(|group| (root.join(mount).join(group), version))
        .collect()
}

/// What a group leaves its processes; none where it has no limit.
fn left(folder: &Path, version: Version) -> Option<u64> {
    let (limit, used, reclaimable): (_, _, &[&str]) = match version {
        Version::One => (
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            &["total_inactive_file", "total_active_file"],
        ),
        Version::Two => (
            "memory.max",
            "memory.current",
            &["inactive_file", "active_file", "slab_reclaimable"],
        ),
    };
    let number = |name: &str| -> Option<u64> {
        let text = std::fs::read_to_string(folder.join(name)).ok()?;
        text.trim().parse().ok()
    };
    let (limit, used) = (number(limit)?, number(used)?);
    let reclaimable = fields(&folder.join("memory.stat"), reclaimable).unwrap_or(0);
    Some(
        (limit - used.min(limit))
            .saturating_add(reclaimable)
            .min(limit),
    )
}

/// The sum of the named numbers of a file of lines `name number` or `name: number kB`.
fn fields(path: &Path, names: &[&str]) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let number = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.trim_end_matches(':');
        let number: u64 = words.next()?.parse().ok()?;
        names.contains(&name).then_some(number)
    };
    let numbers: Vec<u64> = text.lines().filter_map(number).collect();
    (!numbers.is_empty()).then(|| numbers.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ml::config::Family;
    use crate::ml::kernels::Isa;
    use crate::ml::model::Decoder;
    use crate::ml::tests::{batch, config, configs, random_lora};

    fn run(config: &ModelConfig, tokens: usize) -> Run<'_> {
        Run {
            config,
            adapter: None,
            tokens,
            longest: tokens / 2,
            data: 0,
            checkpointing: false,
            dtype: Dtype::F32,
            optimizer: Precision::AdamW,
            keep: Keep::Last,
        }
    }

    #[test]
    fn the_plan_counts_what_the_forward_pass_keeps() {
        for (name, config) in configs() {
            let mut decoder = Decoder::zeros(config.clone(), Isa::detect());
            let (lora, batch) = (random_lora(&config, 0.0), batch(&config));
            for checkpointing in [false, true] {
                decoder.checkpointing = checkpointing;
                let kept = decoder.kept_bytes(Some(&lora), &batch);
                let run = Run {
                    checkpointing,
                    ..run(&config, batch.len())
                };
                assert_eq!(run.kept(), kept, "{name}, {checkpointing}");
            }
        }
    }

    #[test]
    fn the_plan_counts_the_tensors() {
        for dora in [false, true] {
            let config = config(Family::Llama);
            let mut adapter = random_lora(&config, 0.0).config;
            adapter.dora = dora;
            let lora = crate::ml::lora::Lora::zeros(adapter.clone(), &config);
            let plan = Plan::new(&Run {
                adapter: Some(&adapter),
                ..run(&config, 64)
            });
            let bytes = (lora.tensors.elements() * F32) as u64;
            assert_eq!([plan.adapter, plan.gradients], [bytes; 2]);
            assert_eq!(plan.optimizer, 2 * bytes);
            // Norms and biases are left out.
            let decoder = Decoder::zeros(config.clone(), Isa::detect());
            let weights = (decoder.weights.elements() * F32) as u64;
            assert!(plan.weights <= weights && plan.weights * 100 > weights * 98);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would_help() {
        let mut config = config(Family::Llama);
        (config.hidden_size, config.intermediate_size) = (1024, 4096);
        (config.layers, config.vocab_size) = (16, 32_000);
        let run = run(&config, 4096);
        let plan = Plan::new(&run);
        assert_eq!(plan.check(&run, None), Ok(()));
        assert_eq!(plan.check(&run, Some(plan.total)), Ok(()));
        let error = plan.check(&run, Some(1 << 30)).unwrap_err();
        insta::assert_snapshot!(error.to_string());
        insta::assert_snapshot!(error.hint());
        assert!(error.remedies.iter().all(|r| r.total < plan.total));
        let checkpointed = Run {
            checkpointing: true,
            ..run.clone()
        };
        assert_eq!(error.remedies[0].total, Plan::new(&checkpointed).total);
    }

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn what_is_free_is_the_least_that_machine_and_groups_leave() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(free_at(root), None);
        write(
            root,
            "proc/meminfo",
            "MemTotal: 9 kB\nMemAvailable:    8000 kB\n",
        );
        assert_eq!(free_at(root), Some(8_192_000));
        write(
            root,
            "proc/self/cgroup",
            "5:cpu:/x\n4:cpuset,memory:/a/b\n0::/c\n",
        );
        assert_eq!(free_at(root), Some(8_192_000));
        // Version 2: a limit above, cache of which can be had back.
        write(root, "sys/fs/cgroup/c/memory.max", "max\n");
        write(root, "sys/fs/cgroup/memory.max", "5000000\n");
        write(root, "sys/fs/cgroup/memory.current", "4000000\n");
        assert_eq!(free_at(root), Some(1_000_000));
        let stat = "anon 3\nfile 9\ninactive_file 500000\nactive_file 1000\n";
        write(root, "sys/fs/cgroup/memory.stat", stat);
        assert_eq!(free_at(root), Some(1_501_000));
        // Version 1.
        let group = "sys/fs/cgroup/memory/a";
        write(root, &format!("{group}/memory.limit_in_bytes"), "300000\n");
        write(root, &format!("{group}/memory.usage_in_bytes"), "250000\n");
        let stat = "inactive_file 7\ntotal_inactive_file 20000\n";
        write(root, &format!("{group}/memory.stat"), stat);
        assert_eq!(free_at(root), Some(70_000));
        // More in use than is allowed, as a limit that was lowered leaves it.
        write(root, &format!("{group}/memory.usage_in_bytes"), "310000\n");
        assert_eq!(free_at(root), Some(20_000));
    }
}
