//! Tests of the decoder as a whole: against candle, against finite differences, and for its bits.

use std::collections::BTreeMap;

use super::batch::{Batch, IGNORE, Sequence};
use super::config::{Family, LayerAttention, ModelConfig, NormPlacement, QkNorm, Sizes};
use super::kernels::Isa;
use super::kernels::elementwise::RotaryScaling;
use super::lora::{ALL_LINEAR, Lora, LoraConfig};
use super::model::{Decoder, Dropout, Gradients, Loss};
use super::rng::Stream;
use super::tensors::Tensors;

/// A training run against torch's.
mod bf16;
mod curve;
/// Against torch, with the files beside `tests/interop/families.py`.
pub mod families;

/// A small decoder of a family, with key/value heads shared by query heads,
/// windows shorter than the sequences, and caps that are felt.
pub fn config(family: Family) -> ModelConfig {
    let mut config = family.config(Sizes {
        vocab_size: 67,
        hidden_size: 24,
        intermediate_size: 40,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 6,
        max_positions: 96,
    });
    config.tied = false;
    config.query_scalar = config.query_scalar.map(|_| 8.0);
    config.attention_cap = config.attention_cap.map(|_| 3.0);
    config.logit_cap = config.logit_cap.map(|_| 4.0);
    for layer in &mut config.attention {
        layer.window = layer.window.map(|_| 20);
    }
    match family {
        Family::Gemma3 => config.attention[1] = full(0),
        Family::SmolLm3 => config.attention[0].rope = None,
        Family::Qwen2 => config.attention[1].window = Some(70),
        _ => {}
    }
    config
}

/// Attention to everything, with the rotary embedding of that number.
fn full(rope: usize) -> LayerAttention {
    LayerAttention {
        window: None,
        rope: Some(rope),
    }
}

/// Every family, and every other switch in one position or another.
pub fn configs() -> Vec<(&'static str, ModelConfig)> {
    let mut biased = ModelConfig {
        qkv_bias: true,
        o_bias: true,
        mlp_bias: true,
        tied: true,
        ..config(Family::Llama)
    };
    biased.ropes[0].scaling = RotaryScaling::Linear { factor: 3.0 };
    let mut per_head = ModelConfig {
        qk_norm: QkNorm::PerHead,
        norm_placement: NormPlacement::Pre,
        ..config(Family::Olmo2)
    };
    per_head.ropes[0].scaling = RotaryScaling::Llama3 {
        factor: 8.0,
        low: 1.0,
        high: 4.0,
        original: 200,
    };
    let tied = ModelConfig {
        tied: true,
        ..config(Family::Gemma2)
    };
    let mut all = vec![
        ("biases, tied", biased),
        ("norm per head", per_head),
        ("gemma2, tied", tied),
    ];
    all.extend(Family::ALL.map(|family| (family.name(), config(family))));
    all
}

/// A decoder whose every weight is random, norms and biases too.
pub fn random_decoder(config: &ModelConfig, isa: Isa) -> Decoder {
    let mut decoder = Decoder::init(config.clone(), 3, 0.3, isa);
    for tensor in decoder.weights.iter_mut().filter(|t| t.shape.len() == 1) {
        Stream::new(5, "test", 0, &tensor.name).normal(1.0, 0.3, &mut tensor.data);
    }
    decoder
}

/// An adapter on every linear layer whose B is not zero.
pub fn random_lora(config: &ModelConfig, dropout: f64) -> Lora {
    let wanted = LoraConfig {
        rank: 3,
        alpha: 5.0,
        rank_stabilized: false,
        dropout,
        target_modules: vec![ALL_LINEAR.to_owned()],
        layers: None,
    };
    let mut lora = Lora::init(wanted.resolve(config).unwrap(), config, 11);
    for tensor in lora.tensors.iter_mut() {
        Stream::new(6, "test", 0, &tensor.name).normal(0.0, 0.2, &mut tensor.data);
    }
    lora
}

pub fn sequence(length: usize, vocabulary: usize, first: usize, seed: u64) -> Sequence {
    let stream = Stream::new(seed, "tokens", 0, "");
    let token = |i: usize| stream.u32(i as u64) % vocabulary as u32;
    Sequence {
        tokens: (0..length).map(token).collect(),
        targets: (0..length)
            .map(|i| if i < first { IGNORE } else { token(i + 1) })
            .collect(),
    }
}

/// Three sequences of which one is longer than a block of queries.
pub fn batch(config: &ModelConfig) -> Batch {
    let v = config.vocab_size;
    let all = [
        sequence(7, v, 3, 1),
        sequence(90, v, 0, 2),
        sequence(5, v, 4, 3),
    ];
    Batch::new(&all)
}

/// Every gradient of weights and adapter, and the loss.
fn all_gradients(decoder: &Decoder, lora: &Lora, batch: &Batch) -> (Loss, Tensors, Tensors) {
    let mut weights = decoder.weights.zeros_like();
    let mut pairs = lora.tensors.zeros_like();
    let gradients = Gradients {
        weights: Some(&mut weights),
        lora: Some(&mut pairs),
    };
    let dropout = Some(Dropout { seed: 9, step: 4 });
    let scale = 1.0 / batch.counted() as f32;
    let loss = decoder.gradients(Some(lora), batch, dropout, scale, gradients);
    (loss, weights, pairs)
}

pub fn relative_error(ours: &[f32], theirs: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let pairs = ours.iter().zip(theirs);
    let error: f64 = pairs.map(|(a, b)| square(f64::from(a - b))).sum();
    let norm: f64 = theirs.iter().map(|b| square(f64::from(*b))).sum();
    (error / norm.max(1e-30)).sqrt()
}

#[cfg(feature = "candle")]
mod against_candle {
    use super::*;
    use crate::ml::candle::CandleCore;
    use crate::ml::train::Core;

    fn check(name: &str, decoder: Decoder, lora: Option<Lora>, ours: (Loss, Tensors)) {
        let batch = batch(&decoder.config);
        let mut core = CandleCore::new(decoder, lora).unwrap();
        let mut theirs = core.params().zeros_like();
        let dropout = Dropout { seed: 9, step: 4 };
        let scale = 1.0 / batch.counted() as f32;
        let loss = core.gradients(&batch, dropout, scale, &mut theirs).unwrap();
        assert_eq!(loss.tokens, ours.0.tokens);
        assert!(
            (loss.mean() - ours.0.mean()).abs() < 1e-5,
            "{name}: {loss:?}, {:?}",
            ours.0
        );
        let mut worst = 0.0f64;
        for (ours, theirs) in ours.1.iter().zip(theirs.iter()) {
            assert_eq!(ours.name, theirs.name);
            let error = relative_error(&ours.data, &theirs.data);
            assert!(
                error < 1e-4,
                "{name}: gradient of {} is off by {error:e}",
                ours.name
            );
            worst = worst.max(error);
        }
        println!("{name}: worst relative gradient error {worst:.1e}");
    }

    #[test]
    fn every_gradient_of_an_adapter_agrees() {
        for (name, config) in configs() {
            for dropout in [0.0, 0.3] {
                let decoder = random_decoder(&config, Isa::detect());
                let lora = random_lora(&config, dropout);
                let (loss, _, pairs) = all_gradients(&decoder, &lora, &batch(&config));
                check(name, decoder, Some(lora), (loss, pairs));
            }
        }
    }

    #[test]
    fn every_gradient_of_the_weights_agrees() {
        for (name, config) in configs() {
            let decoder = random_decoder(&config, Isa::detect());
            let batch = batch(&config);
            let mut weights = decoder.weights.zeros_like();
            let gradients = Gradients {
                weights: Some(&mut weights),
                lora: None,
            };
            let scale = 1.0 / batch.counted() as f32;
            let loss = decoder.gradients(None, &batch, None, scale, gradients);
            check(name, decoder, None, (loss, weights));
        }
    }

    #[test]
    fn logits_agree_with_the_models_of_candle_transformers() {
        use candle_core::{DType, Device, Tensor};
        use candle_transformers::models::{llama, olmo2};
        for family in [Family::Olmo2, Family::Llama] {
            let config = config(family);
            let decoder = random_decoder(&config, Isa::detect());
            let one = Batch::new(&[sequence(40, config.vocab_size, 0, 4)]);
            let ours = decoder.logits(None, &one);
            let ours = &ours[39 * config.vocab_size..];
            let tensors = decoder.weights.iter().map(|t| {
                let tensor = Tensor::from_slice(&t.data, t.shape.as_slice(), &Device::Cpu);
                (t.name.clone(), tensor.unwrap())
            });
            let weights =
                candle_nn::VarBuilder::from_tensors(tensors.collect(), DType::F32, &Device::Cpu);
            let tokens = Tensor::new(one.tokens.as_slice(), &Device::Cpu).unwrap();
            let tokens = tokens.unsqueeze(0).unwrap();
            let theirs = match family {
                Family::Olmo2 => {
                    let config = olmo2::Config {
                        vocab_size: config.vocab_size,
                        hidden_size: config.hidden_size,
                        intermediate_size: config.intermediate_size,
                        attention_bias: false,
                        num_hidden_layers: config.layers,
                        num_attention_heads: config.heads,
                        num_key_value_heads: config.kv_heads,
                        rms_norm_eps: config.norm_eps,
                        hidden_act: candle_nn::Activation::Silu,
                        max_position_embeddings: config.max_positions,
                        rope_theta: config.ropes[0].theta,
                        tie_word_embeddings: false,
                        clip_qkv: None,
                    };
                    let mut model = olmo2::Model::new(&config, weights).unwrap();
                    model.forward(&tokens, 0).unwrap()
                }
                Family::Llama => {
                    let config = llama::Config {
                        vocab_size: config.vocab_size,
                        hidden_size: config.hidden_size,
                        intermediate_size: config.intermediate_size,
                        num_hidden_layers: config.layers,
                        num_attention_heads: config.heads,
                        num_key_value_heads: config.kv_heads,
                        use_flash_attn: false,
                        rms_norm_eps: config.norm_eps,
                        rope_theta: config.ropes[0].theta as f32,
                        bos_token_id: None,
                        eos_token_id: None,
                        rope_scaling: None,
                        max_position_embeddings: config.max_positions,
                        tie_word_embeddings: false,
                    };
                    let mut cache =
                        llama::Cache::new(true, DType::F32, &config, &Device::Cpu).unwrap();
                    let model = llama::Llama::load(weights, &config).unwrap();
                    model.forward(&tokens, 0, &mut cache).unwrap()
                }
                _ => unreachable!("two families are compared"),
            };
            let theirs: Vec<f32> = theirs.flatten_all().unwrap().to_vec1().unwrap();
            let error = relative_error(ours, &theirs);
            assert!(error < 1e-5, "{family:?}: logits are off by {error:e}");
        }
    }
}

/// The derivative along a random direction through all weights and the
/// adapter at once, against the difference of two losses.
#[test]
fn gradients_agree_with_finite_differences() {
    for (name, config) in configs() {
        check_slope(name, &config, random_lora(&config, 0.0));
    }
}

/// Rank-stabilized, on some modules only, one of them with a rank and alpha of its own.
#[test]
fn gradients_of_other_adapters_agree_with_finite_differences() {
    use super::layout::{Module, Slot};
    use super::lora::Exception;
    let config = config(Family::Llama);
    let own = Exception {
        module: Module {
            layer: 1,
            slot: Slot::Up,
        },
        rank: 5,
        alpha: 11.0,
    };
    for exceptions in [vec![], vec![own]] {
        let wanted = LoraConfig {
            rank: 4,
            alpha: 3.0,
            rank_stabilized: true,
            dropout: 0.0,
            target_modules: vec!["*.1.mlp.*".to_owned(), "v_proj".to_owned()],
            layers: None,
        };
        let wanted = wanted.resolve(&config).unwrap();
        assert_eq!(wanted.scale(), 1.5, "3 / √4");
        let mut lora = Lora::with_exceptions(wanted, exceptions, &config);
        assert_eq!(lora.modules().count(), 5);
        for tensor in lora.tensors.iter_mut() {
            Stream::new(6, "test", 0, &tensor.name).normal(0.0, 0.2, &mut tensor.data);
        }
        check_slope("rank-stabilized", &config, lora);
    }
}

fn check_slope(name: &str, config: &ModelConfig, mut lora: Lora) {
    let mut decoder = random_decoder(config, Isa::detect());
    let batch = batch(config);
    let (_, weights, pairs) = all_gradients(&decoder, &lora, &batch);
    let mut slope = 0.0;
    let mut directions = Vec::new();
    for gradient in weights.iter().chain(pairs.iter()) {
        let mut direction = vec![0.0; gradient.data.len()];
        Stream::new(8, "direction", 0, &gradient.name).normal(0.0, 1.0, &mut direction);
        let products = direction.iter().zip(&gradient.data);
        slope += products
            .map(|(d, g)| f64::from(*d) * f64::from(*g))
            .sum::<f64>();
        directions.push(direction);
    }
    let step = 2e-4;
    let mut shift = |by: f32| {
        let tensors = decoder.weights.iter_mut().chain(lora.tensors.iter_mut());
        for (tensor, direction) in tensors.zip(&directions) {
            let values = tensor.data.iter_mut().zip(direction);
            values.for_each(|(x, d)| *x += by * d);
        }
        decoder.loss(Some(&lora), &batch).mean()
    };
    let above = shift(step);
    let below = shift(-2.0 * step);
    let measured = (above - below) / (2.0 * f64::from(step));
    let error = (measured - slope).abs() / slope.abs().max(1.0);
    assert!(error < 0.02, "{name}: slope {slope}, measured {measured}");
}

#[test]
fn packing_changes_no_loss() {
    let config = config(Family::Olmo2);
    let decoder = random_decoder(&config, Isa::detect());
    let v = config.vocab_size;
    let all = [
        sequence(7, v, 3, 1),
        sequence(90, v, 0, 2),
        sequence(5, v, 4, 3),
    ];
    let together = decoder.loss(None, &Batch::new(&all));
    let apart = all
        .iter()
        .map(|one| decoder.loss(None, &Batch::new([one])))
        .fold(Loss::default(), Loss::plus);
    assert_eq!(together.tokens, apart.tokens);
    assert!(
        (together.sum - apart.sum).abs() < 1e-9,
        "{together:?} {apart:?}"
    );
}

/// Bits of loss and gradients, for every number of threads and instruction set.
#[test]
fn bits_do_not_depend_on_threads_or_instruction_set() {
    for (name, config) in configs() {
        let mut seen: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for isa in Isa::available() {
            for threads in [1, 2, 3, 5] {
                let bits = crate::ml::with_threads(threads, || {
                    let decoder = random_decoder(&config, isa);
                    let lora = random_lora(&config, 0.1);
                    let (loss, weights, pairs) = all_gradients(&decoder, &lora, &batch(&config));
                    let tensors = weights.iter().chain(pairs.iter());
                    let values = tensors.flat_map(|t| t.data.iter().map(|x| x.to_bits()));
                    let loss = loss.sum.to_bits();
                    values.chain([loss as u32, (loss >> 32) as u32]).collect()
                });
                seen.insert(format!("{isa}, {threads} threads"), bits.unwrap());
            }
        }
        let first = seen.values().next().unwrap();
        for (which, bits) in &seen {
            assert!(bits == first, "{name}: {which} differs");
        }
    }
}

/// Twenty steps of training with dropout, for every instruction set.
#[test]
fn a_trained_adapter_has_the_same_bits_on_every_instruction_set() {
    use super::batch::Sequences;
    use super::optim::{AdamW, Schedule};
    use super::train::{LogLine, LoraCore, Observer, Options, Progress, train};

    struct Silent;
    impl Observer for Silent {
        fn line(&mut self, _: &LogLine) -> Result<(), crate::files::FileError> {
            Ok(())
        }
        fn progress(&mut self, _: Progress) {}
        fn cancelled(&self) -> bool {
            false
        }
        fn resumed(&mut self, _: u64, _: u64) {}
        fn warning(&mut self, _: &str) {}
    }

    let config = config(Family::Olmo2);
    let options = Options {
        seed: 1,
        learning_rate: 1e-2,
        schedule: Schedule::Cosine,
        warmup_steps: 2,
        adamw: AdamW {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
        },
        clip_norm: 1.0,
        epochs: 0,
        max_steps: 20,
        batch_tokens: 60,
        accumulation: 2,
        eval_every: 0,
        log_every: 1,
    };
    let v = config.vocab_size;
    let data = Sequences {
        all: (0..9)
            .map(|i| sequence(10 + 2 * i, v, i, i as u64))
            .collect(),
        ..Sequences::default()
    };
    let trained = |isa| {
        let mut core = LoraCore {
            decoder: random_decoder(&config, isa),
            lora: random_lora(&config, 0.2),
        };
        train(&mut core, &data, None, &options, isa, &mut Silent, None).unwrap();
        let values = core.lora.tensors.iter().flat_map(|t| &t.data);
        values.map(|x| x.to_bits()).collect::<Vec<_>>()
    };
    let scalar = trained(Isa::scalar());
    for isa in Isa::available() {
        assert!(trained(isa) == scalar, "{isa} differs from scalar");
    }
}

/// Runs that are stopped, killed and gone on with.
mod resumed {
    use std::time::Duration;

    use super::super::batch::Sequences;
    use super::super::checkpoint::{Checkpoints, Unusable};
    use super::super::optim::{AdamW, Schedule};
    use super::super::train::{
        LogLine, LoraCore, Observer, Options, Progress, Summary, TrainError, train,
    };
    use super::*;
    use crate::hash::Digest;

    /// Takes everything down; stops after some steps.
    #[derive(Default)]
    struct Witness {
        lines: Vec<String>,
        steps: u64,
        stop_after: Option<u64>,
        resumed: Option<(u64, u64)>,
        warnings: Vec<String>,
    }

    impl Observer for Witness {
        fn line(&mut self, line: &LogLine) -> Result<(), crate::files::FileError> {
            self.lines.push(serde_json::to_string(line).unwrap());
            Ok(())
        }
        fn progress(&mut self, _: Progress) {
            self.steps += 1;
        }
        fn cancelled(&self) -> bool {
            self.stop_after.is_some_and(|n| self.steps >= n)
        }
        fn resumed(&mut self, step: u64, tokens: u64) {
            self.resumed = Some((step, tokens));
        }
        fn warning(&mut self, message: &str) {
            self.warnings.push(message.to_owned());
        }
    }

    fn options() -> Options {
        Options {
            seed: 3,
            learning_rate: 1e-2,
            schedule: Schedule::Cosine,
            warmup_steps: 2,
            adamw: AdamW {
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.01,
            },
            clip_norm: 1.0,
            epochs: 0,
            max_steps: 9,
            batch_tokens: 60,
            accumulation: 2,
            eval_every: 4,
            log_every: 2,
        }
    }

    type Outcome = (Vec<u32>, Vec<String>, Summary);

    fn run(witness: &mut Witness, place: Option<&mut Checkpoints>) -> Result<Outcome, TrainError> {
        let config = config(Family::Olmo2);
        let v = config.vocab_size;
        let all = |n| {
            (0..n)
                .map(|i| sequence(10 + 2 * i, v, i, i as u64))
                .collect()
        };
        let (data, validation) = (
            Sequences {
                all: all(9),
                ..Sequences::default()
            },
            Sequences {
                all: all(2),
                ..Sequences::default()
            },
        );
        let mut core = LoraCore {
            decoder: random_decoder(&config, Isa::detect()),
            lora: random_lora(&config, 0.2),
        };
        let isa = Isa::detect();
        let ended = train(
            &mut core,
            &data,
            Some(&validation),
            &options(),
            isa,
            witness,
            place,
        );
        let values = core.lora.tensors.iter().flat_map(|t| &t.data);
        let bits = values.map(|x| x.to_bits()).collect();
        ended.map(|summary| (bits, witness.lines.clone(), summary))
    }

    fn undisturbed() -> Outcome {
        run(&mut Witness::default(), None).unwrap()
    }

    fn open(folder: &std::path::Path) -> (Checkpoints, Result<(), Unusable>) {
        Checkpoints::open(folder, Digest::of(b"key"), Duration::ZERO)
    }

    fn stop_after(steps: u64) -> Witness {
        Witness {
            stop_after: Some(steps),
            ..Witness::default()
        }
    }

    #[test]
    fn a_run_that_is_stopped_after_any_step_ends_with_the_same_bits() {
        let whole = undisturbed();
        for steps in 1..=8 {
            let folder = tempfile::tempdir().unwrap();
            let mut place = open(folder.path()).0;
            let stopped = run(&mut stop_after(steps), Some(&mut place));
            assert!(matches!(stopped, Err(TrainError::Cancelled)));
            let mut witness = Witness::default();
            let mut place = open(folder.path()).0;
            let ended = run(&mut witness, Some(&mut place)).unwrap();
            assert_eq!(witness.resumed.unwrap().0, steps);
            assert_eq!(witness.steps, 9 - steps, "what was done is not done again");
            assert!(ended == whole, "stopped after {steps}");
        }
    }

    #[test]
    fn a_run_that_is_stopped_again_and_again_ends_with_the_same_bits() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..4 {
            let mut place = open(folder.path()).0;
            assert!(run(&mut stop_after(2), Some(&mut place)).is_err());
        }
        let mut place = open(folder.path()).0;
        assert!(run(&mut Witness::default(), Some(&mut place)).unwrap() == undisturbed());
    }

    #[test]
    fn a_damaged_or_foreign_checkpoint_is_named_and_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let mut place = open(folder.path()).0;
        assert!(run(&mut stop_after(3), Some(&mut place)).is_err());
        let file = folder.path().join("training.state");
        let good = std::fs::read(&file).unwrap();
        let every = good.len() / 97 + 1;
        for at in (0..good.len()).step_by(every).chain([good.len() - 1]) {
            let mut bad = good.clone();
            bad[at] ^= 4;
            std::fs::write(&file, &bad).unwrap();
            let (_, found) = open(folder.path());
            assert!(matches!(found, Err(Unusable::Damaged(_))), "flipped {at}");
            std::fs::write(&file, &good[..at]).unwrap();
            let (_, found) = open(folder.path());
            assert!(matches!(found, Err(Unusable::Damaged(_))), "cut at {at}");
        }
        let (mut place, _) = open(folder.path());
        let mut witness = Witness::default();
        assert!(run(&mut witness, Some(&mut place)).unwrap() == undisturbed());
        assert_eq!(witness.resumed, None, "it began anew");
        std::fs::write(&file, &good).unwrap();
        let other = Digest::of(b"another key");
        let (_, found) = Checkpoints::open(folder.path(), other, Duration::ZERO);
        assert!(matches!(found, Err(Unusable::Foreign(_))));
    }

    #[test]
    fn a_checkpoint_that_cannot_be_written_stops_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut place = open(&folder.path().join("gone")).0;
        let mut witness = Witness::default();
        assert!(run(&mut witness, Some(&mut place)).unwrap() == undisturbed());
        assert!(witness.warnings[0].starts_with("no checkpoint was written: failed to create"));
    }

    #[test]
    fn checkpoints_are_not_written_more_often_than_asked() {
        let folder = tempfile::tempdir().unwrap();
        let hour = Duration::from_secs(3600);
        let mut place = Checkpoints::open(folder.path(), Digest::of(b"key"), hour).0;
        run(&mut Witness::default(), Some(&mut place)).unwrap();
        assert!(!folder.path().join("training.state").exists());
    }
}

/// `pipelines/quickstart.lock` stands on these bits.
#[test]
fn the_bits_of_olmo_and_llama_are_what_they_were() {
    use crate::hash::Digest;
    let digest = |family| {
        let config = config(family);
        let decoder = random_decoder(&config, Isa::detect());
        let lora = random_lora(&config, 0.1);
        let (loss, weights, pairs) = all_gradients(&decoder, &lora, &batch(&config));
        let values = weights.iter().chain(pairs.iter()).flat_map(|t| &t.data);
        let mut bytes: Vec<u8> = values.flat_map(|x| x.to_le_bytes()).collect();
        bytes.extend(loss.sum.to_le_bytes());
        Digest::of(&bytes).to_string()
    };
    let digests = [Family::Olmo2, Family::Llama].map(digest);
    insta::assert_snapshot!(digests.join("\n"), @r"
    e35bd53dfb51196c3e099fc119ae9cbb7ef3b90fcb3e9be58801d5da142abca2
    b2c1e8f4ab4b2305167c5a1eea538cce019c2db118fc696bfe92c582286b93dc
    ");
}
