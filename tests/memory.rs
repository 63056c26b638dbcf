//! What training holds in memory, counted by the allocator itself, beside what was planned.
#![expect(
    unsafe_code,
    reason = "an allocator that counts is the only witness of what is held"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use retune::files::FileError;
use retune::ml::batch::{Sequence, Sequences};
use retune::ml::config::{Family, ModelConfig, Sizes};
use retune::ml::kernels::Isa;
use retune::ml::lora::{ALL_LINEAR, Lora, LoraConfig};
use retune::ml::matrix::Dtype;
use retune::ml::memory::{self, Plan};
use retune::ml::model::Decoder;
use retune::ml::optim::{AdamW, Precision, Schedule};
use retune::ml::stopping::{EarlyStopping, Keep};
use retune::ml::summary::{LogLine, Progress};
use retune::ml::train::{FullCore, Keeping, LoraCore, Observer, Options, train};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn more(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

fn less(bytes: usize) {
    LIVE.fetch_sub(bytes, Ordering::Relaxed);
}

// SAFETY: every call is the system allocator's; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        less(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        more(size);
        less(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Silent;

impl Observer for Silent {
    fn line(&mut self, _: &LogLine) -> Result<(), FileError> {
        Ok(())
    }
    fn progress(&mut self, _: Progress) {}
    fn cancelled(&self) -> bool {
        false
    }
    fn resumed(&mut self, _: u64, _: u64) {}
    fn warning(&mut self, _: &str) {}
}

/// One run.
#[derive(Clone, Copy)]
struct Run {
    family: Family,
    /// Hidden size, layers, feed-forward size, heads, vocabulary.
    sizes: [usize; 5],
    sequences: usize,
    length: usize,
    /// Of all linear layers; all weights are trained without one.
    adapter: Option<Adapter>,
    checkpointing: bool,
}

#[derive(Clone, Copy)]
struct Adapter {
    rank: usize,
    dropout: f64,
    dora: bool,
}

impl Run {
    fn config(&self) -> ModelConfig {
        let [hidden_size, layers, intermediate_size, heads, vocab_size] = self.sizes;
        let mut config = self.family.config(Sizes {
            vocab_size,
            hidden_size,
            intermediate_size,
            layers,
            heads,
            kv_heads: heads,
            head_dim: hidden_size / heads,
            max_positions: 4096,
        });
        config.tied = false;
        config
    }

    fn data(&self) -> Sequences {
        let vocabulary = self.sizes[4] as u32;
        let sequence = |n: usize| {
            let token = |i: usize| (n * 7919 + i * 104_729) as u32 % vocabulary;
            Sequence {
                tokens: (0..self.length).map(token).collect(),
                targets: (1..=self.length).map(token).collect(),
            }
        };
        Sequences {
            all: (0..self.sequences).map(sequence).collect(),
            ..Sequences::default()
        }
    }

    fn options(&self) -> Options {
        Options {
            seed: 1,
            learning_rate: 1e-4,
            schedule: Schedule::Constant,
            warmup_steps: 0,
            adamw: AdamW {
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.0,
            },
            clip_norm: 1.0,
            epochs: 0,
            max_steps: 2,
            batch_tokens: self.sequences * self.length,
            accumulation: 1,
            eval_every: 0,
            log_every: 1,
            neftune_alpha: 0.0,
            optimizer: Precision::AdamW,
            early_stopping: EarlyStopping::default(),
            keep: Keep::Last,
        }
    }

    fn lora(&self, config: &ModelConfig) -> Option<Lora> {
        let Adapter {
            rank,
            dropout,
            dora,
        } = self.adapter?;
        let wanted = LoraConfig {
            rank,
            alpha: 32.0,
            rank_stabilized: false,
            dropout,
            dora,
            target_modules: vec![ALL_LINEAR.to_owned()],
            layers: None,
        };
        Some(Lora::init(wanted.resolve(config).unwrap(), config, 1))
    }

    fn plan(&self) -> Plan {
        let config = self.config();
        let lora = self.lora(&config);
        let tokens = self.sequences * self.length;
        Plan::new(&memory::Run {
            config: &config,
            adapter: lora.as_ref().map(|lora| &lora.config),
            tokens,
            longest: self.length,
            data: tokens,
            checkpointing: self.checkpointing,
            dtype: Dtype::F32,
            optimizer: Precision::AdamW,
            keep: Keep::Last,
        })
    }

    /// Trains two steps; gives the most bytes that were held at once. On threads
    /// of its own, because threads keep their buffers.
    fn peak(&self) -> usize {
        retune::ml::with_threads(1, || self.trained()).unwrap()
    }

    fn trained(&self) -> usize {
        let before = LIVE.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let (config, isa) = (self.config(), Isa::detect());
        let lora = self.lora(&config);
        let mut decoder = Decoder::init(config, 1, 0.02, isa);
        decoder.checkpointing = self.checkpointing;
        let (data, options) = (self.data(), self.options());
        let trained = match lora {
            Some(lora) => {
                let mut core = LoraCore { decoder, lora };
                train(
                    &mut core,
                    &data,
                    None,
                    &options,
                    isa,
                    &mut Silent,
                    Keeping::default(),
                )
            }
            None => {
                let mut core = FullCore { decoder };
                train(
                    &mut core,
                    &data,
                    None,
                    &options,
                    isa,
                    &mut Silent,
                    Keeping::default(),
                )
            }
        };
        trained.unwrap();
        PEAK.load(Ordering::Relaxed) - before
    }
}

const PLAIN: Adapter = Adapter {
    rank: 16,
    dropout: 0.0,
    dora: false,
};

/// Small enough for a test, large enough that the parts show.
const SMALL: Run = Run {
    family: Family::Llama,
    sizes: [128, 6, 352, 4, 2048],
    sequences: 4,
    length: 128,
    adapter: Some(PLAIN),
    checkpointing: false,
};

/// The program itself is no allocation.
#[test]
fn the_plan_is_within_15_percent_of_what_is_allocated() {
    let dropped = Adapter {
        dropout: 0.1,
        ..PLAIN
    };
    let magnified = Adapter {
        dora: true,
        ..PLAIN
    };
    let wide = [64, 2, 176, 2, 16384];
    let runs = [
        ("an adapter", SMALL),
        (
            "olmo2",
            Run {
                family: Family::Olmo2,
                ..SMALL
            },
        ),
        (
            "gemma2",
            Run {
                family: Family::Gemma2,
                ..SMALL
            },
        ),
        (
            "dropout",
            Run {
                adapter: Some(dropped),
                ..SMALL
            },
        ),
        (
            "magnitudes",
            Run {
                adapter: Some(magnified),
                ..SMALL
            },
        ),
        (
            "all weights",
            Run {
                adapter: None,
                ..SMALL
            },
        ),
        (
            "a large vocabulary",
            Run {
                sizes: wide,
                ..SMALL
            },
        ),
        (
            "one long sequence",
            Run {
                sequences: 1,
                length: 1024,
                ..SMALL
            },
        ),
    ];
    let twice = |(name, run): (&'static str, Run)| {
        [false, true].map(|checkpointing| {
            (
                name,
                Run {
                    checkpointing,
                    ..run
                },
            )
        })
    };
    let mut faults = Vec::new();
    for (name, run) in runs.into_iter().flat_map(twice) {
        let plan = run.plan();
        let planned = (plan.total - plan.program) as f64;
        let ratio = planned / run.peak() as f64;
        let line = format!("{name}, checkpointing {}: {ratio:.3}", run.checkpointing);
        println!("{line}");
        if !(0.85..1.15).contains(&ratio) {
            faults.push(line);
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// The peak of this process's resident memory, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().trim_end_matches("kB").trim();
    kib.parse::<usize>().unwrap() * 1024
}

/// Plan, allocations and resident memory of one run in a process of its own:
///
/// `RETUNE_MEMORY_RUN=50m,lora cargo test --test memory -- --ignored --nocapture`
///
/// with a size (5m, 50m, 300m) and any of lora, full, dora, dropout, checkpointing.
#[test]
#[ignore = "it measures and proves nothing"]
fn resident_memory_of_a_run() {
    let wanted = std::env::var("RETUNE_MEMORY_RUN").unwrap_or_else(|_| "50m,lora".into());
    let has = |word: &str| wanted.split(',').any(|it| it == word);
    let sizes = match wanted.split(',').next().unwrap() {
        "5m" => [256, 4, 704, 4, 4096],
        "50m" => [512, 10, 1408, 8, 16384],
        "300m" => [1024, 16, 2816, 16, 32768],
        other => panic!("{other} is no size"),
    };
    let adapter = Adapter {
        dropout: if has("dropout") { 0.1 } else { 0.0 },
        dora: has("dora"),
        ..PLAIN
    };
    let run = Run {
        family: Family::Olmo2,
        sizes,
        sequences: 4,
        length: 256,
        adapter: (!has("full")).then_some(adapter),
        checkpointing: has("checkpointing"),
    };
    let plan = run.plan();
    let peak = run.peak();
    let mb = |bytes: u64| bytes / 1_000_000;
    println!("{wanted}: planned {} MB: {plan}", mb(plan.total));
    println!(
        "allocated {} MB, resident {} MB",
        mb(peak as u64),
        mb(resident() as u64)
    );
}
