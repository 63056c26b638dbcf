//! Low-rank adapters: which layers have one, their tensors and how they begin.
//!
//! Hu et al., "LoRA", 2021; rank-stabilized scaling by Kalajdzievski, 2023.

use super::config::ModelConfig;
use super::layout::{Module, Slot};
use super::rng::Stream;
use super::target;
use super::tensors::{TensorId, Tensors};

pub use super::target::ALL_LINEAR;

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
    /// Whether every adapted row has a magnitude of its own ([`super::dora`]).
    pub dora: bool,
    /// The targeted modules, as [`target::select`] reads them; when resolved
    /// sorted, as [`target::naming`] writes them.
    pub target_modules: Vec<String>,
    /// The blocks that are targeted, sorted; all when none are given.
    pub layers: Option<Vec<usize>>,
}

/// A module with another rank or alpha than the rest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exception {
    /// The module.
    pub module: Module,
    /// Its rank.
    pub rank: usize,
    /// Its numerator of the scale.
    pub alpha: f64,
}

/// An adapter cannot be put on the model.
#[derive(Debug, thiserror::Error)]
pub enum LoraError {
    /// A target is no linear layer of the model.
    #[error("target_modules: '{target}' is no linear layer of the model ({there})")]
    UnknownTarget {
        /// The target.
        target: String,
        /// What there is.
        there: String,
    },
    /// A pattern matches no linear layer of the model.
    #[error(
        "target_modules: the pattern '{target}' matches no linear layer of the model ({there})"
    )]
    UnknownPattern {
        /// The pattern.
        target: String,
        /// What there is.
        there: String,
    },
    /// A pattern cannot be read.
    #[error("target_modules: the pattern '{target}' cannot be read: {message}")]
    BadPattern {
        /// The pattern.
        target: String,
        /// Why.
        message: String,
    },
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
    /// Checks every target against the model and names the targeted modules
    /// the shortest way, so that configurations that mean the same are equal.
    pub fn resolve(mut self, model: &ModelConfig) -> Result<Self, LoraError> {
        let unknown = |layer: &&usize| **layer >= model.layers;
        if let Some(layer) = self.layers.iter().flatten().find(unknown) {
            return Err(LoraError::UnknownLayer {
                layer: *layer,
                last: model.layers - 1,
            });
        }
        let modules = target::select(&self.target_modules, self.layers.as_deref(), model)?;
        (self.target_modules, self.layers) = target::naming(&modules, model);
        Ok(self)
    }

    /// What the update is multiplied with.
    pub fn scale(&self) -> f32 {
        self.scale_of(self.rank, self.alpha) as f32
    }

    /// What the update of a module with this rank and alpha is multiplied with.
    pub fn scale_of(&self, rank: usize, alpha: f64) -> f64 {
        let rank = rank as f64;
        match self.rank_stabilized {
            true => alpha / rank.sqrt(),
            false => alpha / rank,
        }
    }

    /// The targeted modules of a resolved configuration, block by block.
    pub fn modules(&self, model: &ModelConfig) -> Vec<Module> {
        let mut all = target::all(model);
        all.retain(|module| {
            let path = module.to_string();
            self.layers
                .as_ref()
                .is_none_or(|some| some.contains(&module.layer))
                && self
                    .target_modules
                    .iter()
                    .any(|name| target::names(name, &path))
        });
        all
    }
}

/// The tensors of an adapted module.
#[derive(Debug, Clone, Copy)]
pub struct PairIds {
    /// [rank, inputs].
    pub a: TensorId,
    /// [outputs, rank].
    pub b: TensorId,
    /// \[outputs\]; only DoRA has it.
    pub magnitude: Option<TensorId>,
    /// Of this module.
    pub rank: usize,
    /// What its update is multiplied with.
    pub scale: f32,
}

/// An adapter's tensors and where they belong.
#[derive(Debug, Clone)]
pub struct Lora {
    /// What it is like, resolved.
    pub config: LoraConfig,
    /// Modules that are otherwise, in the order of modules.
    pub exceptions: Vec<Exception>,
    /// By block and [`Slot`].
    pairs: Vec<[Option<PairIds>; 7]>,
    /// A and B of every module, and the magnitudes of DoRA, under PEFT's names.
    pub tensors: Tensors,
}

impl Lora {
    /// An adapter of zeros; `config` must be resolved.
    pub fn zeros(config: LoraConfig, model: &ModelConfig) -> Self {
        Self::with_exceptions(config, Vec::new(), model)
    }

    /// An adapter of zeros of which some modules have a rank or alpha of their own.
    pub fn with_exceptions(
        config: LoraConfig,
        exceptions: Vec<Exception>,
        model: &ModelConfig,
    ) -> Self {
        let mut tensors = Tensors::default();
        let mut pairs = vec![[None; 7]; model.layers];
        for module in config.modules(model) {
            let (outputs, inputs) = module.slot.size(model);
            let other = exceptions.iter().find(|other| other.module == module);
            let rank = other.map_or(config.rank, |other| other.rank);
            let alpha = other.map_or(config.alpha, |other| other.alpha);
            pairs[module.layer][module.slot as usize] = Some(PairIds {
                a: tensors.push(tensor_name(module, "A"), vec![rank, inputs]),
                b: tensors.push(tensor_name(module, "B"), vec![outputs, rank]),
                magnitude: (config.dora)
                    .then(|| tensors.push(magnitude_name(module), vec![outputs])),
                rank,
                scale: config.scale_of(rank, alpha) as f32,
            });
        }
        Lora {
            config,
            exceptions,
            pairs,
            tensors,
        }
    }

    /// The adapted modules with their tensors, block by block.
    pub fn modules(&self) -> impl Iterator<Item = (Module, PairIds)> {
        let slots = |(layer, pairs): (usize, &[Option<PairIds>; 7])| {
            let pairs = *pairs;
            let pair = move |slot| Some((Module { layer, slot }, pairs[slot as usize]?));
            Slot::ALL.into_iter().filter_map(pair)
        };
        self.pairs.iter().enumerate().flat_map(slots)
    }

    /// A module's exact scale; its pair has it as f32.
    pub fn scale(&self, module: Module) -> f64 {
        let other = self.exceptions.iter().find(|other| other.module == module);
        let (rank, alpha) = other.map_or((self.config.rank, self.config.alpha), |other| {
            (other.rank, other.alpha)
        });
        self.config.scale_of(rank, alpha)
    }

    /// A new adapter as PEFT begins one: A Kaiming-uniform with a = √5, that
    /// is uniform within 1/√inputs, and B zero, so that it changes nothing yet
    /// (with DoRA once [`super::dora::begin`] has set its magnitudes).
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

/// PEFT's name of a module's tensor `A` or `B`.
fn tensor_name(module: Module, part: &str) -> String {
    format!("base_model.model.{module}.lora_{part}.weight")
}

/// PEFT's name of a module's magnitudes.
fn magnitude_name(module: Module) -> String {
    format!("base_model.model.{module}.lora_magnitude_vector")
}
