//! Training an adapter on a base in bf16.

use std::path::Path;

use safetensors::Dtype as FileDtype;

use super::super::batch::{Batch, Sequence};
use super::super::config::{Family, SpecialIds};
use super::super::kernels::{Isa, bf16};
use super::super::lora::Lora;
use super::super::matrix::Dtype;
use super::super::model::{Decoder, Dropout, Gradients, Loss};
use super::super::optim::{AdamW, Optimizer};
use super::super::tensors::Tensors;
use super::super::weights::{Described, Sink};
use super::{batch, config, configs, random_decoder, random_lora, sequence};

fn gradients(decoder: &Decoder, lora: &Lora, batch: &Batch) -> (Loss, Tensors) {
    let mut pairs = lora.tensors.zeros_like();
    let into = Gradients {
        weights: None,
        lora: Some(&mut pairs),
    };
    let dropout = Some(Dropout {
        seed: 9,
        step: 4,
        neftune_alpha: 0.0,
    });
    let scale = 1.0 / batch.counted() as f32;
    let loss = decoder.gradients(Some(lora), batch, dropout, scale, into);
    (loss, pairs)
}

fn bits((loss, pairs): (Loss, Tensors)) -> Vec<u64> {
    let values = pairs.iter().flat_map(|t| &t.data);
    let values = values.map(|x| u64::from(x.to_bits()));
    values.chain([loss.sum.to_bits()]).collect()
}

#[test]
fn bits_do_not_depend_on_threads_or_instruction_set() {
    for (name, config) in configs() {
        let (lora, batch) = (random_lora(&config, 0.1), batch(&config));
        let mut first = None;
        for isa in Isa::available() {
            for threads in [1, 2, 3, 5, 8] {
                let decoder = random_decoder(&config, isa).rounded();
                let found =
                    crate::ml::with_threads(threads, || bits(gradients(&decoder, &lora, &batch)));
                let found = found.unwrap();
                let first = first.get_or_insert_with(|| found.clone());
                assert!(*first == found, "{name}: {isa}, {threads} threads differ");
            }
        }
    }
}

/// The weights with matrices in bf16, and norms and biases as they are.
fn write_half(decoder: &Decoder, folder: &Path) {
    decoder.config.write(folder, SpecialIds::default()).unwrap();
    let mut tensors: Vec<_> = decoder.weights.iter().collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let described = |tensor: &&super::super::tensors::Tensor| Described {
        name: tensor.name.clone(),
        dtype: match tensor.shape.len() {
            2 => FileDtype::BF16,
            _ => FileDtype::F32,
        },
        shape: tensor.shape.clone(),
    };
    let all: Vec<Described> = tensors.iter().map(described).collect();
    let path = folder.join("model.safetensors");
    let mut sink = Sink::create(&path, "pt", &all).unwrap();
    for tensor in tensors {
        let bytes: Vec<u8> = match tensor.shape.len() {
            2 => tensor
                .data
                .iter()
                .flat_map(|x| bf16::round(*x).to_le_bytes())
                .collect(),
            _ => tensor.data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        sink.put(&bytes).unwrap();
    }
    sink.finish().unwrap();
}

#[test]
fn a_mapped_matrix_is_the_rounded_one() {
    let config = config(Family::Olmo2);
    let decoder = random_decoder(&config, Isa::detect());
    let (half, single) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_half(&decoder, half.path());
    config.write(single.path(), SpecialIds::default()).unwrap();
    decoder
        .weights
        .write(&single.path().join("model.safetensors"))
        .unwrap();
    let (lora, batch) = (random_lora(&config, 0.0), batch(&config));
    let wanted = bits(gradients(&decoder.rounded(), &lora, &batch));
    for folder in [half, single] {
        let decoder = Decoder::open_as(folder.path(), Isa::detect(), Dtype::Bf16).unwrap();
        assert_eq!(bits(gradients(&decoder, &lora, &batch)), wanted);
        decoder.unchanged().unwrap();
    }
}

/// Losses of 300 steps over eight sequences.
fn losses(decoder: &Decoder) -> Vec<f64> {
    let mut lora = Lora::init(random_lora(&decoder.config, 0.0).config, &decoder.config, 1);
    let settings = AdamW {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.0,
    };
    let mut optimizer = Optimizer::new(settings, &lora.tensors, decoder.isa());
    let rows = |i| sequence(20, decoder.config.vocab_size, 0, i);
    let rows: Vec<Sequence> = (0..8).map(rows).collect();
    let step = |step: usize| {
        let batch = Batch::new([&rows[2 * step % 8], &rows[(2 * step + 1) % 8]]);
        let (loss, gradients) = gradients(decoder, &lora, &batch);
        optimizer.step(&mut lora.tensors, &gradients, 5e-3, 1.0);
        loss.mean()
    };
    (0..300).map(step).collect()
}

/// The loss falls as in f32: the mean of any 20 steps is within 2 %, and over
/// all of the run the two differ by less than 0.5 % on average.
#[test]
fn training_tracks_f32() {
    let decoder = || Decoder::init(config(Family::Olmo2), 3, 0.1, Isa::detect());
    let (single, half) = (losses(&decoder()), losses(&decoder().rounded()));
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(
        mean(&single[280..]) < 0.8 * mean(&single[..20]),
        "it learns"
    );
    for (single, half) in single.chunks(20).zip(half.chunks(20)) {
        let off = mean(half) / mean(single) - 1.0;
        assert!(off.abs() < 0.02, "{single:?} {half:?}");
    }
    let off = mean(&half) / mean(&single) - 1.0;
    assert!(off.abs() < 0.005, "{off}");
    assert_ne!(single, half, "bf16 is felt");
}
