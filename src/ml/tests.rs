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
    random_lora_of(config, 3, dropout)
}

fn random_lora_of(config: &ModelConfig, rank: usize, dropout: f64) -> Lora {
    let wanted = LoraConfig {
        rank,
        alpha: 5.0,
        rank_stabilized: false,
        dropout,
        dora: false,
        target_modules: vec![ALL_LINEAR.to_owned()],
        layers: None,
    };
    let mut lora = Lora::init(wanted.resolve(config).unwrap(), config, 11);
    for tensor in lora.tensors.iter_mut() {
        Stream::new(6, "test", 0, &tensor.name).normal(0.0, 0.2, &mut tensor.data);
    }
    lora
}

/// [`random_lora`] with a random magnitude for every row.
pub fn random_dora(config: &ModelConfig, dropout: f64) -> Lora {
    let plain = random_lora(config, dropout).config;
    let mut lora = Lora::zeros(
        LoraConfig {
            dora: true,
            ..plain
        },
        config,
    );
    for tensor in lora.tensors.iter_mut() {
        let mean = if tensor.shape.len() == 1 { 1.5 } else { 0.0 };
        Stream::new(6, "test", 0, &tensor.name).normal(mean, 0.2, &mut tensor.data);
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
    let scale = 1.0 / batch.counted() as f32;
    let loss = decoder.gradients(Some(lora), batch, Some(CHANCE), scale, gradients);
    (loss, weights, pairs)
}

/// Of a micro-batch without noise.
const CHANCE: Dropout = Dropout {
    seed: 9,
    step: 4,
    neftune_alpha: 0.0,
};

/// The bits of a loss and of gradients.
fn bits<'a>(loss: Loss, tensors: impl IntoIterator<Item = &'a Tensors>) -> Vec<u32> {
    let tensors = tensors.into_iter().flat_map(Tensors::iter);
    let values = tensors.flat_map(|tensor| tensor.data.iter().map(|x| x.to_bits()));
    let loss = loss.sum.to_bits();
    values.chain([loss as u32, (loss >> 32) as u32]).collect()
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
    use crate::ml::candle::{CandleCore, Place};
    use crate::ml::train::Core;

    fn check(name: &str, decoder: Decoder, lora: Option<Lora>, ours: (Loss, Tensors)) {
        let batch = batch(&decoder.config);
        let mut core = CandleCore::new(decoder, lora, Place::Cpu).unwrap();
        let mut theirs = core.params().zeros_like();
        let scale = 1.0 / batch.counted() as f32;
        let loss = core.gradients(&batch, CHANCE, scale, &mut theirs).unwrap();
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
                for lora in [random_lora, random_dora] {
                    let decoder = random_decoder(&config, Isa::detect());
                    let lora = lora(&config, dropout);
                    let (loss, _, pairs) = all_gradients(&decoder, &lora, &batch(&config));
                    check(name, decoder, Some(lora), (loss, pairs));
                }
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
            dora: false,
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
                    let adapters = [random_lora, random_dora].map(|lora| lora(&config, 0.1));
                    let of = |lora| {
                        let (loss, weights, pairs) = all_gradients(&decoder, lora, &batch(&config));
                        bits(loss, [&weights, &pairs])
                    };
                    adapters.iter().flat_map(of).collect()
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

/// Loss and every gradient, where blocks are kept and where they are run again.
#[test]
fn blocks_that_are_run_again_give_the_same_bits() {
    for (name, config) in configs() {
        let mut decoder = random_decoder(&config, Isa::detect());
        let batch = batch(&config);
        for lora in [random_lora(&config, 0.3), random_dora(&config, 0.3)] {
            let [kept, again] = [false, true].map(|checkpointing| {
                decoder.checkpointing = checkpointing;
                let (loss, weights, pairs) = all_gradients(&decoder, &lora, &batch);
                bits(loss, [&weights, &pairs])
            });
            assert!(kept == again, "{name}, an adapter");
        }
        let [kept, again] = [false, true].map(|checkpointing| {
            decoder.checkpointing = checkpointing;
            let mut weights = decoder.weights.zeros_like();
            let gradients = Gradients {
                weights: Some(&mut weights),
                lora: None,
            };
            let loss = decoder.gradients(None, &batch, None, 0.01, gradients);
            bits(loss, [&weights])
        });
        assert!(kept == again, "{name}, all weights");
    }
}

#[test]
fn a_new_adapter_with_magnitudes_changes_nothing_yet() {
    for (name, config) in configs() {
        let decoder = random_decoder(&config, Isa::detect());
        let wanted = random_dora(&config, 0.0).config;
        let mut lora = Lora::init(wanted, &config, 7);
        super::dora::begin(&mut lora, &decoder);
        let batch = batch(&config);
        let with = decoder.logits(Some(&lora), &batch);
        let error = relative_error(&with, &decoder.logits(None, &batch));
        assert!(error < 1e-6, "{name}: {error:e}");
    }
}

/// A row of zeros stays one, whatever its magnitude.
#[test]
fn a_row_of_zeros_has_no_direction() {
    let config = config(Family::Llama);
    let mut decoder = random_decoder(&config, Isa::detect());
    let mut lora = random_dora(&config, 0.0);
    let (module, pair) = lora.modules().next().unwrap();
    let id = decoder.layout.layers[module.layer].linear[module.slot as usize].weight;
    decoder.weights.get_mut(id)[..config.hidden_size].fill(0.0);
    lora.tensors.get_mut(pair.b)[..pair.rank].fill(0.0);
    let (loss, _, pairs) = all_gradients(&decoder, &lora, &batch(&config));
    let mut values = pairs.iter().flat_map(|tensor| &tensor.data);
    assert!(loss.sum.is_finite() && values.all(|x| x.is_finite()));
}

#[test]
fn noise_on_embeddings_is_within_its_bound_and_of_its_micro_batch() {
    let config = config(Family::Llama);
    let batch = batch(&config);
    let hidden = config.hidden_size;
    let noise = |seed, step| {
        let mut noise = vec![0.0; batch.len() * hidden];
        let chance = Dropout {
            seed,
            step,
            neftune_alpha: 5.0,
        };
        chance.add_noise(&batch, &mut noise);
        noise
    };
    let first = noise(1, 1);
    for sequence in &batch.sequences {
        let noise = &first[sequence.start * hidden..sequence.end * hidden];
        let bound = 5.0 / (noise.len() as f32).sqrt();
        let greatest = noise.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!(greatest <= bound && greatest > 0.95 * bound);
        let variance = noise.iter().map(|x| x * x).sum::<f32>() / noise.len() as f32;
        let wanted = bound * bound / 3.0;
        assert!((variance / wanted - 1.0).abs() < 0.3, "{variance} {wanted}");
    }
    assert_eq!(noise(1, 1), first);
    assert!(noise(1, 2) != first && noise(2, 1) != first);
    let decoder = random_decoder(&config, Isa::detect());
    let loss = |neftune_alpha| {
        let chance = Dropout {
            neftune_alpha,
            ..CHANCE
        };
        let none = Gradients::default();
        decoder.gradients(None, &batch, Some(chance), 1.0, none)
    };
    assert_eq!(loss(0.0), decoder.loss(None, &batch));
    assert_ne!(loss(5.0), decoder.loss(None, &batch));
}

/// Twenty steps of training with dropout, for every instruction set.
#[test]
fn a_trained_adapter_has_the_same_bits_on_every_instruction_set() {
    use super::batch::Sequences;
    use super::optim::{AdamW, Precision, Schedule};
    use super::stopping::{EarlyStopping, Keep};
    use super::summary::{LogLine, Progress};
    use super::train::{Keeping, LoraCore, Observer, Options, train};

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
        optimizer: Precision::AdamW,
        early_stopping: EarlyStopping::default(),
        keep: Keep::Last,
        neftune_alpha: 0.0,
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
        let keeping = Keeping::default();
        train(&mut core, &data, None, &options, isa, &mut Silent, keeping).unwrap();
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
    use super::super::checkpoint::{Cadence, Checkpoints, Unusable};
    use super::super::optim::{AdamW, Precision, Schedule};
    use super::super::saved::{Results, SavedError};
    use super::super::stopping::{EarlyStopping, Keep};
    use super::super::summary::{LogLine, Progress, Summary};
    use super::super::train::{Keeping, LoraCore, Observer, Options, TrainError, train};
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
            optimizer: Precision::AdamW,
            early_stopping: EarlyStopping::default(),
            keep: Keep::Last,
            neftune_alpha: 5.0,
        }
    }

    type Outcome = (Vec<u32>, Vec<String>, Summary);

    fn run(witness: &mut Witness, place: Option<&mut Checkpoints>) -> Result<Outcome, TrainError> {
        let checkpoints = place;
        let keeping = Keeping {
            checkpoints,
            results: None,
        };
        run_with(&options(), 3, witness, keeping)
    }

    /// With an adapter of that rank.
    fn run_with(
        options: &Options,
        rank: usize,
        witness: &mut Witness,
        keeping: Keeping<'_, '_>,
    ) -> Result<Outcome, TrainError> {
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
            lora: random_lora_of(&config, rank, 0.2),
        };
        let isa = Isa::detect();
        let validation = Some(&validation);
        let ended = train(&mut core, &data, validation, options, isa, witness, keeping);
        let values = core.lora.tensors.iter().flat_map(|t| &t.data);
        let bits = values.map(|x| x.to_bits()).collect();
        ended.map(|summary| (bits, witness.lines.clone(), summary))
    }

    fn undisturbed() -> Outcome {
        run(&mut Witness::default(), None).unwrap()
    }

    fn open(folder: &std::path::Path) -> (Checkpoints, Result<(), Unusable>) {
        Checkpoints::open(folder, Digest::of(b"key"), Cadence::Time(Duration::ZERO))
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
    fn validation_has_no_noise_and_training_has() {
        let run = |neftune_alpha| {
            let mut witness = Witness::default();
            let options = Options {
                // So that nothing but the noise makes a difference.
                learning_rate: 0.0,
                neftune_alpha,
                ..options()
            };
            run_with(&options, 3, &mut witness, Keeping::default())
                .unwrap()
                .2
        };
        let (with, without) = (run(5.0), run(0.0));
        assert_eq!(with.validation, without.validation);
        assert_ne!(with.first_loss, without.first_loss);
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

    fn save(folder: &std::path::Path, params: &Tensors) -> Result<(), SavedError> {
        Ok(params.write(&folder.join("w.safetensors"))?)
    }

    /// Every file of a folder of folders.
    fn all_files(folder: &std::path::Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
        let inside = |path: &std::path::Path| -> Vec<_> {
            let entries = std::fs::read_dir(path).unwrap();
            entries.map(|entry| entry.unwrap().path()).collect()
        };
        let files = inside(folder).into_iter().flat_map(|path| inside(&path));
        files
            .map(|path| {
                let bytes = std::fs::read(&path).unwrap();
                (path.strip_prefix(folder).unwrap().to_owned(), bytes)
            })
            .collect()
    }

    type Files = BTreeMap<std::path::PathBuf, Vec<u8>>;

    /// A run with intermediate results every two steps, interrupted after each
    /// of `stops` steps, and what it leaves.
    fn with_results(options: &Options, rank: usize, stops: &[u64]) -> (Outcome, Files) {
        let place = tempfile::tempdir().unwrap();
        let out = tempfile::tempdir().unwrap();
        let beside = place.path().join("results");
        let attempt = |witness: &mut Witness| {
            let mut checkpoints = open(place.path()).0;
            let mut results = Results::new(2, 2, Some(&beside), out.path(), &save);
            let keeping = Keeping {
                checkpoints: Some(&mut checkpoints),
                results: Some(&mut results),
            };
            let ended = run_with(options, rank, witness, keeping);
            ended.map(|ended| {
                results.finish(out.path()).unwrap();
                (ended, all_files(out.path()))
            })
        };
        for stop in stops {
            let stopped = attempt(&mut stop_after(*stop));
            assert!(matches!(stopped, Err(TrainError::Cancelled)));
        }
        attempt(&mut Witness::default()).unwrap()
    }

    #[test]
    fn intermediate_results_are_the_same_after_an_interruption() {
        let whole = with_results(&options(), 3, &[]);
        let names: Vec<_> = whole.1.keys().map(|path| path.to_str().unwrap()).collect();
        // The last two of steps 2, 4, 6 and 8; 4 and 8 are validated.
        let wanted = [
            "step-000006/checkpoint.json",
            "step-000006/w.safetensors",
            "step-000008/checkpoint.json",
            "step-000008/w.safetensors",
        ];
        let best_is_first = names.len() == 6 && names[0] == "step-000004/checkpoint.json";
        assert!(names == wanted || best_is_first, "{names:?}");
        for stops in [
            &[1][..],
            &[3],
            &[5],
            &[7],
            &[2, 2, 2],
            &[1, 1, 1, 1, 1, 1, 1],
        ] {
            assert!(with_results(&options(), 3, stops) == whole, "{stops:?}");
        }
    }

    #[test]
    fn an_intermediate_result_that_is_gone_or_changed_makes_the_run_begin_anew() {
        let (place, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let beside = place.path().join("results");
        for file in ["w.safetensors", "checkpoint.json"] {
            let attempt = |witness: &mut Witness| {
                let mut checkpoints = open(place.path()).0;
                let mut results = Results::new(2, 0, Some(&beside), out.path(), &save);
                let keeping = Keeping {
                    checkpoints: Some(&mut checkpoints),
                    results: Some(&mut results),
                };
                run_with(&options(), 3, witness, keeping)
            };
            assert!(attempt(&mut stop_after(5)).is_err());
            std::fs::write(beside.join("step-000002").join(file), "x").unwrap();
            let mut witness = Witness::default();
            assert!(attempt(&mut witness).unwrap() == undisturbed());
            assert_eq!(witness.resumed, None);
            assert!(witness.warnings[0].starts_with("starting anew"));
            std::fs::remove_file(place.path().join("training.state")).unwrap();
        }
    }

    /// A learning rate at which the validation loss rises again.
    fn stopping(patience: u64, keep: Keep) -> Options {
        Options {
            learning_rate: 0.3,
            max_steps: 24,
            eval_every: 1,
            early_stopping: EarlyStopping {
                patience,
                min_delta: 0.0,
            },
            keep,
            ..options()
        }
    }

    #[test]
    fn a_run_that_gets_no_better_ends_early_and_keeps_its_best_weights() {
        let (last, ..) = with_results(&stopping(3, Keep::Last), 3, &[]);
        let (best, ..) = with_results(&stopping(3, Keep::Best), 3, &[]);
        let stopped = last.2.stopped.clone().unwrap();
        let found = last.2.best.unwrap();
        assert_eq!((stopped.step, stopped.planned), (found.step + 3, 24));
        assert_eq!(last.2.steps, stopped.step);
        assert!(stopped.reason.starts_with("3 validations in a row"));
        assert_eq!(
            (last.2.kept_step, best.2.kept_step),
            (None, Some(found.step))
        );
        assert_eq!(last.1, best.1, "the log is the same");
        // The best weights are those of a run that ends there.
        let options = Options {
            schedule: Schedule::Constant,
            ..stopping(3, Keep::Best)
        };
        let (best, ..) = with_results(&options, 3, &[]);
        let options = Options {
            max_steps: best.2.kept_step.unwrap(),
            ..options
        };
        assert_eq!(with_results(&options, 3, &[]).0.0, best.0);
    }

    #[test]
    fn early_stopping_and_small_moments_go_on_with_the_same_bits() {
        // Rank 171 gives matrices of 24 × 171 = 4104 elements: eight bits.
        for (rank, optimizer) in [(3, Precision::AdamW), (171, Precision::AdamW8bit)] {
            let options = Options {
                optimizer,
                ..stopping(3, Keep::Best)
            };
            let whole = with_results(&options, rank, &[]);
            let steps = whole.0.2.steps;
            for stop in 1..steps {
                let again = with_results(&options, rank, &[stop]);
                assert!(again == whole, "rank {rank}, stopped after {stop}");
            }
        }
    }

    #[test]
    fn what_needs_validations_says_so_without_them() {
        let config = config(Family::Olmo2);
        let data = Sequences {
            all: vec![sequence(9, config.vocab_size, 0, 1)],
            ..Sequences::default()
        };
        let mut core = LoraCore {
            decoder: random_decoder(&config, Isa::detect()),
            lora: random_lora(&config, 0.0),
        };
        for (patience, keep, field) in [
            (2, Keep::Last, "early_stopping_patience"),
            (0, Keep::Best, "keep = \"best\""),
        ] {
            let (options, keeping) = (stopping(patience, keep), Keeping::default());
            let (isa, witness) = (Isa::detect(), &mut Witness::default());
            let ended = train(&mut core, &data, None, &options, isa, witness, keeping);
            let message = ended.unwrap_err().to_string();
            assert!(message.starts_with(field), "{message}");
        }
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
        let (_, found) = Checkpoints::open(folder.path(), other, Cadence::Time(Duration::ZERO));
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
        let written = |every| {
            let mut place = Checkpoints::open(folder.path(), Digest::of(b"key"), every).0;
            run(&mut Witness::default(), Some(&mut place)).unwrap();
            drop(place);
            let found = Checkpoints::open(folder.path(), Digest::of(b"key"), every).0;
            found.found().map(|position| position.step)
        };
        assert_eq!(written(Cadence::Time(Duration::from_secs(3600))), None);
        assert_eq!(written(Cadence::Steps(20)), None);
        assert_eq!(
            written(Cadence::Steps(3)),
            Some(6),
            "of nine; the last needs none"
        );
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
