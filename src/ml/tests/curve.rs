//! The loss curve of 200 steps against PEFT's with torch's AdamW.
//!
//! `tests/interop/curve.py` wrote down what torch came to.

use std::path::Path;

use super::super::batch::{Sequence, Sequences, plan_epoch};
use super::super::kernels::Isa;
use super::super::lora::{ALL_LINEAR, Lora, LoraConfig};
use super::super::model::Decoder;
use super::super::optim::{AdamW, Precision, Schedule};
use super::super::stopping::{EarlyStopping, Keep};
use super::super::summary::{LogLine, Progress};
use super::super::train::{Keeping, LoraCore, Observer, Options, train};
use super::families::Reference;
use super::relative_error;

const ROWS: usize = 4;
const LENGTH: usize = 48;

/// Keeps the losses.
struct Losses(Vec<f64>);

impl Observer for Losses {
    fn line(&mut self, _: &LogLine) -> Result<(), crate::files::FileError> {
        Ok(())
    }
    fn progress(&mut self, progress: Progress) {
        self.0.push(progress.loss);
    }
    fn cancelled(&self) -> bool {
        false
    }
    fn resumed(&mut self, _: u64, _: u64) {}
    fn warning(&mut self, _: &str) {}
}

/// The rows so placed that the run's seed puts them in torch's order.
fn data(tokens: &[u8], options: &Options) -> Sequences {
    let sequence = |tokens: &[u8]| Sequence {
        tokens: tokens.iter().map(|t| u32::from(*t)).collect(),
        targets: tokens[1..]
            .iter()
            .map(|t| u32::from(*t))
            .chain([super::super::batch::IGNORE])
            .collect(),
    };
    let theirs: Vec<Sequence> = tokens.chunks_exact(LENGTH).map(sequence).collect();
    let plan = plan_epoch(&theirs, options.seed, 0, options.batch_tokens, 1);
    let order = plan.into_iter().flat_map(|step| step.batches).flatten();
    let mut all = theirs.clone();
    for (place, sequence) in order.zip(theirs) {
        all[place] = sequence;
    }
    Sequences {
        all,
        ..Sequences::default()
    }
}

fn adapter(reference: &Reference, moment: &str, decoder: &Decoder) -> Lora {
    let wanted = LoraConfig {
        rank: 4,
        alpha: 8.0,
        rank_stabilized: false,
        dropout: 0.0,
        dora: false,
        target_modules: vec![ALL_LINEAR.to_owned()],
        layers: None,
    };
    let wanted = wanted.resolve(&decoder.config).unwrap();
    let mut lora = Lora::zeros(wanted, &decoder.config);
    for tensor in lora.tensors.iter_mut() {
        tensor.data = reference.floats(&format!("{moment}.{}", tensor.name));
    }
    lora
}

#[test]
fn a_run_of_200_steps_is_that_of_torch() {
    let interop = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
    let reference = Reference::open(&interop.join("curve.safetensors"));
    let decoder = Decoder::open(&interop.join("families/olmo2"), Isa::detect()).unwrap();
    let options = Options {
        seed: 11,
        learning_rate: 5e-3,
        schedule: Schedule::Cosine,
        warmup_steps: 10,
        adamw: AdamW {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
        },
        clip_norm: 1.0,
        epochs: 1,
        max_steps: 0,
        batch_tokens: ROWS * LENGTH,
        accumulation: 1,
        eval_every: 0,
        log_every: 1,
        neftune_alpha: 0.0,
        optimizer: Precision::AdamW,
        early_stopping: EarlyStopping::default(),
        keep: Keep::Last,
    };
    let data = data(reference.bytes("tokens"), &options);
    let after = adapter(&reference, "after", &decoder);
    let lora = adapter(&reference, "before", &decoder);
    let mut core = LoraCore { decoder, lora };
    let mut losses = Losses(Vec::new());
    let isa = Isa::detect();
    let keeping = Keeping::default();
    train(&mut core, &data, None, &options, isa, &mut losses, keeping).unwrap();

    let theirs = reference.floats("losses");
    assert_eq!(losses.0.len(), theirs.len());
    let pairs = losses.0.iter().zip(&theirs);
    let worst = pairs.fold(0.0f64, |worst, (ours, theirs)| {
        worst.max((ours - f64::from(*theirs)).abs())
    });
    let parts = core.lora.tensors.iter().zip(after.tensors.iter());
    let adapter = parts.fold(0.0f64, |worst, (ours, theirs)| {
        worst.max(relative_error(&ours.data, &theirs.data))
    });
    println!("loss off by {worst:.1e} at most, adapter by {adapter:.1e}");
    assert!(worst < 1e-5, "the loss is off by {worst:e}");
    assert!(adapter < 1e-3, "the adapter is off by {adapter:e}");
}
