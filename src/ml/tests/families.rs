//! Every family against transformers and PEFT on torch.
//!
//! `tests/interop/families.py` made the models and wrote down what torch
//! computes with them; `RETUNE_FAMILIES` names another folder it wrote.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use super::super::batch::{Batch, IGNORE, Sequence};
use super::super::kernels::Isa;
use super::super::lora::{ALL_LINEAR, Lora, LoraConfig};
use super::super::model::{Decoder, Gradients};
use super::super::tensors::Tensors;
use super::relative_error;

/// The greatest relative L2 error of logits.
const LOGITS: f64 = 1e-4;
/// The greatest relative L2 error of a gradient.
const GRADIENT: f64 = 1e-5;

/// The folders of the models.
pub fn folders() -> Vec<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/families");
    let root = std::env::var_os("RETUNE_FAMILIES").map_or(beside, PathBuf::from);
    let entries = std::fs::read_dir(root).unwrap();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    folders
}

/// What torch wrote down.
pub struct Reference(BTreeMap<String, Vec<u8>>);

impl Reference {
    /// Reads it from a model's folder.
    pub fn read(folder: &Path) -> Self {
        Self::open(&folder.join("reference.safetensors"))
    }

    /// Reads a file of torch's.
    pub fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.tensors().into_iter();
        Reference(
            tensors
                .map(|(name, view)| (name, view.data().to_vec()))
                .collect(),
        )
    }

    /// A tensor as it lies in the file.
    pub fn bytes(&self, name: &str) -> &[u8] {
        let bytes = self.0.get(name);
        bytes.unwrap_or_else(|| panic!("torch has no {name}"))
    }

    fn words(&self, name: &str) -> impl Iterator<Item = [u8; 4]> {
        let words = self.bytes(name).chunks_exact(4);
        words.map(|b| b.try_into().unwrap())
    }

    /// Values of a tensor of floats.
    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.words(name).map(f32::from_le_bytes).collect()
    }

    /// Values of a tensor of integers.
    pub fn integers(&self, name: &str) -> Vec<i32> {
        self.words(name).map(i32::from_le_bytes).collect()
    }

    /// The two sequences, packed.
    fn batch(&self) -> Batch {
        let (tokens, labels) = (self.integers("tokens"), self.integers("labels"));
        let length = tokens.len() / 2;
        let rows = tokens.chunks_exact(length).zip(labels.chunks_exact(length));
        let sequences: Vec<Sequence> = rows.map(|(t, l)| sequence(t, l)).collect();
        Batch::new(&sequences)
    }

    /// The adapter that torch used.
    pub fn lora(&self, decoder: &Decoder) -> Lora {
        let wanted = LoraConfig {
            rank: 2,
            alpha: 3.0,
            rank_stabilized: false,
            dropout: 0.0,
            dora: false,
            target_modules: vec![ALL_LINEAR.to_owned()],
            layers: None,
        };
        let wanted = wanted.resolve(&decoder.config).unwrap();
        let mut lora = Lora::zeros(wanted, &decoder.config);
        for tensor in lora.tensors.iter_mut() {
            let name = tensor.name.trim_start_matches("base_model.model.");
            tensor.data = self.floats(&format!("lora.{name}"));
        }
        lora
    }

    /// The worst error of the gradients torch has, and how many those are.
    fn compare(&self, family: &str, gradients: &Tensors) -> (f64, usize) {
        let (mut worst, mut compared) = (0.0f64, 0);
        for gradient in gradients.iter() {
            let name = gradient.name.trim_start_matches("base_model.model.");
            let name = format!("grad.{name}");
            if !self.0.contains_key(&name) {
                continue;
            }
            let error = relative_error(&gradient.data, &self.floats(&name));
            assert!(error < GRADIENT, "{family}: {name} is off by {error:e}");
            worst = worst.max(error);
            compared += 1;
        }
        (worst, compared)
    }
}

/// transformers shifts the labels itself; here each token has its target.
fn sequence(tokens: &[i32], labels: &[i32]) -> Sequence {
    let targets = labels[1..].iter().chain([&-100]);
    Sequence {
        tokens: tokens.iter().map(|token| *token as u32).collect(),
        targets: targets
            .map(|label| u32::try_from(*label).unwrap_or(IGNORE))
            .collect(),
    }
}

#[test]
fn loss_logits_and_gradients_are_those_of_torch() {
    let folders = folders();
    assert!(folders.len() >= 9, "{folders:?}");
    for folder in folders {
        let family = folder.file_name().unwrap().to_str().unwrap();
        let reference = Reference::read(&folder);
        let decoder = Decoder::open(&folder, Isa::detect()).unwrap();
        let (lora, batch) = (reference.lora(&decoder), reference.batch());

        let logits = decoder.logits(Some(&lora), &batch);
        let off = relative_error(&logits, &reference.floats("logits"));
        assert!(off < LOGITS, "{family}: logits are off by {off:e}");

        let mut weights = decoder.weights.zeros_like();
        let mut pairs = lora.tensors.zeros_like();
        let gradients = Gradients {
            weights: Some(&mut weights),
            lora: Some(&mut pairs),
        };
        let scale = 1.0 / batch.counted() as f32;
        let loss = decoder.gradients(Some(&lora), &batch, None, scale, gradients);
        let theirs = f64::from(reference.floats("loss")[0]);
        let error = (loss.mean() - theirs).abs() / theirs;
        assert!(error < 1e-6, "{family}: loss {} for {theirs}", loss.mean());

        let (worst_pair, compared) = reference.compare(family, &pairs);
        assert_eq!(compared, 14 * decoder.config.layers, "{family}");
        let (worst_weight, compared) = reference.compare(family, &weights);
        assert!(compared > 2 * decoder.config.layers, "{family}");
        println!(
            "{family}: logits {off:.1e}, loss {error:.1e}, adapter {worst_pair:.1e}, norms, biases and embedding {worst_weight:.1e}"
        );
    }
}
