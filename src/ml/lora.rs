//! Low-rank adapters: which layers have one, their tensors and how they begin.
//!
//! Hu et al., "LoRA", 2021; rank-stabilized scaling by Kalajdzievski, 2023.

use super::config::ModelConfig;
use super::layout::{Module, Slot};
use super::rng::Stream;
use super::tensors::{TensorId, Tensors};

/// The word that targets every linear layer of the blocks.
pub const ALL_LINEAR: &str = "all-linear";

/// What an adapter is like.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank of the update.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Whether the scale is alpha / √rank instead of alpha / rank.
    pub rank_stabilized: bool,
    /// Probability with which an input of an adapter is dropped in training.
    pub dropout: f64,
    /// Last names of the targeted modules, sorted; never [`ALL_LINEAR`].
    pub target_modules: Vec<String>,
    /// The blocks that are targeted, sorted; all when none are given.
    pub layers: Option<Vec<usize>>,
}

/// An adapter cannot be put on the model.
#[derive(Debug, thiserror::Error)]
pub enum LoraError {
    /// A target is no linear layer of the model.
    #[error(
        "target_modules: '{0}' is no linear layer of the model (it has {names}, or all-linear)",
        names = Slot::ALL.map(Slot::name).join(", ")
    )]
    UnknownTarget(String),
    /// A block is not there.
    #[error("layers: there is no layer {layer}; the model has layers 0 to {last}")]
    UnknownLayer {
        /// The wanted block.
        layer: usize,
        /// The last one.
        last: usize,
    },
    /// Nothing would be trained.
    #[error("target_modules: no layer is targeted, so that nothing would be trained")]
    Nothing,
}

impl LoraConfig {
    /// Replaces [`ALL_LINEAR`] by the names it stands for, sorts, and checks
    /// every target against the model.
    pub fn resolve(mut self, model: &ModelConfig) -> Result<Self, LoraError> {
        if self.target_modules.iter().any(|name| name == ALL_LINEAR) {
            self.target_modules = Slot::ALL.map(|slot| slot.name().to_owned()).to_vec();
        }
        self.target_modules.sort();
        self.target_modules.dedup();
        for name in &self.target_modules {
            if !Slot::ALL.iter().any(|slot| slot.name() == name) {
                return Err(LoraError::UnknownTarget(name.clone()));
            }
        }
        if let Some(layers) = &mut self.layers {
            layers.sort_unstable();
            layers.dedup();
            if let Some(layer) = layers.iter().find(|layer| **layer >= model.layers) {
                return Err(LoraError::UnknownLayer {
                    layer: *layer,
                    last: model.layers - 1,
                });
            }
        }
        match self.modules(model).is_empty() {
            true => Err(LoraError::Nothing),
            false => Ok(self),
        }
    }

    /// What the update is multiplied with.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f64;
        let root = if self.rank_stabilized {
            rank.sqrt()
        } else {
            rank
        };
        (self.alpha / root) as f32
    }

    /// The targeted modules, block by block.
    pub fn modules(&self, model: &ModelConfig) -> Vec<Module> {
        let layers = 0..model.layers;
        let targeted = |slot: &Slot| self.target_modules.iter().any(|name| name == slot.name());
        layers
            .filter(|layer| self.layers.as_ref().is_none_or(|some| some.contains(layer)))
            .flat_map(|layer| {
                let slots = Slot::ALL.into_iter().filter(targeted);
                slots.map(move |slot| Module { layer, slot })
            })
            .collect()
    }
}

/// The two tensors of an adapted module.
#[derive(Debug, Clone, Copy)]
pub struct PairIds {
    /// [rank, inputs].
    pub a: TensorId,
    /// [outputs, rank].
    pub b: TensorId,
}

/// An adapter's tensors and where they belong.
#[derive(Debug, Clone)]
pub struct Lora {
    /// What it is like, resolved.
    pub config: LoraConfig,
    /// By block and [`Slot`].
    pairs: Vec<[Option<PairIds>; 7]>,
    /// A and B of every module, under PEFT's names.
    pub tensors: Tensors,
}

impl Lora {
    /// An adapter of zeros; `config` must be resolved.
    pub fn zeros(config: LoraConfig, model: &ModelConfig) -> Self {
        let mut tensors = Tensors::default();
        let mut pairs = vec![[None; 7]; model.layers];
        for module in config.modules(model) {
            let (outputs, inputs) = module.slot.size(model);
            let name = |part: &str| format!("base_model.model.{module}.lora_{part}.weight");
            pairs[module.layer][module.slot as usize] = Some(PairIds {
                a: tensors.push(name("A"), vec![config.rank, inputs]),
                b: tensors.push(name("B"), vec![outputs, config.rank]),
            });
        }
        Lora {
            config,
            pairs,
            tensors,
        }
    }

    /// A new adapter as PEFT begins one: A Kaiming-uniform with a = √5, that
    /// is uniform within 1/√inputs, and B zero, so that it changes nothing yet.
    pub fn init(config: LoraConfig, model: &ModelConfig, seed: u64) -> Self {
        let mut lora = Self::zeros(config, model);
        for tensor in lora.tensors.iter_mut() {
            if tensor.name.ends_with("lora_A.weight") {
                let bound = 1.0 / (tensor.shape[1] as f32).sqrt();
                Stream::new(seed, "lora", 0, &tensor.name).symmetric(bound, &mut tensor.data);
            }
        }
        lora
    }

    /// The pair of a module, if it is targeted.
    pub fn pair(&self, layer: usize, slot: Slot) -> Option<PairIds> {
        self.pairs[layer][slot as usize]
    }
}
