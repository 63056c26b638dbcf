//! The same decoder in candle's differentiable operations: the second opinion, and the door to other devices.
//!
//! Only operations with a backward pass are used: candle's fused softmax,
//! RMSNorm and rotary embedding cut gradients off without a word.

use candle_core::{D, Device, Error, Result, Tensor, Var};
use candle_nn::ops;

use super::batch::{Batch, IGNORE};
use super::dora;
use super::kernels::elementwise::{self, Activation, Rotary};
use super::layout::{BranchNorms, Module, Slot};
use super::linear::dropout_stream;
use super::lora::Lora;
use super::model::{Decoder, Dropout, Loss};
use super::tensors::{TensorId, Tensors};
use super::train::{Core, CoreError};

/// Where candle computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the processor.
    Cpu,
    /// On the first CUDA device that can be seen.
    Cuda,
    /// On the first Metal device.
    Metal,
}

impl Place {
    /// Whether this build can compute there.
    pub fn is_built_in(self) -> bool {
        match self {
            Place::Cpu => true,
            Place::Cuda => cfg!(feature = "cuda"),
            Place::Metal => cfg!(feature = "metal"),
        }
    }

    fn device(self) -> Result<Device> {
        match self {
            Place::Cpu => Ok(Device::Cpu),
            Place::Cuda => Device::new_cuda(0),
            Place::Metal => Device::new_metal(0),
        }
    }

    /// What the device is called, as far as that can be told; bits are promised
    /// for one model of a device only.
    pub fn describe(self) -> String {
        match self {
            Place::Cpu => "cpu".to_owned(),
            Place::Metal => "metal".to_owned(),
            Place::Cuda => {
                let models = cuda_models();
                match models.is_empty() {
                    true => "cuda".to_owned(),
                    false => format!("cuda: {}", models.join(", ")),
                }
            }
        }
    }
}

/// The models of NVIDIA's devices, as its driver tells of them below `/proc`.
fn cuda_models() -> Vec<String> {
    let folders = std::fs::read_dir("/proc/driver/nvidia/gpus");
    let folders = folders.into_iter().flatten().flatten();
    let texts =
        folders.filter_map(|gpu| std::fs::read_to_string(gpu.path().join("information")).ok());
    let mut models: Vec<String> = texts
        .filter_map(|text| {
            Some(
                text.lines()
                    .find_map(|l| l.strip_prefix("Model:"))?
                    .trim()
                    .to_owned(),
            )
        })
        .collect();
    models.sort();
    models.dedup();
    models
}

/// Trains an adapter, or all weights when there is none, by candle's automatic differentiation.
pub struct CandleCore {
    decoder: Decoder,
    lora: Option<Lora>,
    device: Device,
    /// The weights on the device.
    weights: Vec<Tensor>,
}

impl CandleCore {
    /// Puts a model on a device.
    pub fn new(
        decoder: Decoder,
        lora: Option<Lora>,
        place: Place,
    ) -> std::result::Result<Self, CoreError> {
        let device = place.device().map_err(core_error)?;
        let weights = upload(&decoder.weights, &device).map_err(core_error)?;
        Ok(CandleCore {
            decoder,
            lora,
            device,
            weights,
        })
    }

    /// The adapter as it is now.
    pub fn into_lora(self) -> Option<Lora> {
        self.lora
    }

    fn run(
        &mut self,
        batch: &Batch,
        dropout: Option<Dropout>,
        gradients: Option<(f32, &mut Tensors)>,
    ) -> Result<Loss> {
        if self.lora.is_none() {
            self.weights = upload(&self.decoder.weights, &self.device)?;
        }
        let trained = match &self.lora {
            Some(lora) => &lora.tensors,
            None => &self.decoder.weights,
        };
        let vars: Vec<Var> = trained
            .iter()
            .map(|t| Var::from_slice(&t.data, t.shape.as_slice(), &self.device))
            .collect::<Result<_>>()?;
        let layers = 0..self.decoder.config.layers;
        let graph = Graph {
            core: self,
            batch,
            dropout,
            vars: vars.iter().map(Var::as_tensor).collect(),
            layers: layers
                .map(|layer| self.layer(layer, batch))
                .collect::<Result<_>>()?,
        };
        let (sum, tokens) = graph.loss()?;
        if let Some((scale, out)) = gradients {
            let store = (&sum * f64::from(scale))?.backward()?;
            for (var, out) in vars.iter().zip(out.iter_mut()) {
                if let Some(gradient) = store.get(var) {
                    let values = gradient.flatten_all()?.to_vec1::<f32>()?;
                    out.data.iter_mut().zip(values).for_each(|(o, g)| *o += g);
                }
            }
        }
        let sum = f64::from(sum.to_scalar::<f32>()?);
        Ok(Loss { sum, tokens })
    }

    fn layer(&self, layer: usize, batch: &Batch) -> Result<Layer> {
        let rotary = self.decoder.rotary(layer);
        let cos_sin = rotary.map(|rotary| self.cos_sin(rotary, batch));
        Ok(Layer {
            cos_sin: cos_sin.transpose()?,
            mask: self.mask(layer, batch)?,
        })
    }

    /// 0 where a token may look, -∞ elsewhere: [tokens, tokens].
    fn mask(&self, layer: usize, batch: &Batch) -> Result<Tensor> {
        let n = batch.len();
        let window = self.decoder.config.scoring(layer).window;
        let mut mask = vec![f32::NEG_INFINITY; n * n];
        for sequence in &batch.sequences {
            for row in sequence.clone() {
                let first = sequence.start.max((row + 1).saturating_sub(window));
                mask[row * n + first..=row * n + row].fill(0.0);
            }
        }
        Tensor::from_vec(mask, (n, n), &self.device)
    }

    /// Cosines and sines for the batch's positions, each [tokens, 1, width / 2].
    fn cos_sin(&self, rotary: &Rotary, batch: &Batch) -> Result<(Tensor, Tensor)> {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in &batch.positions {
            let (c, s) = rotary.at(*position);
            cos.extend_from_slice(c);
            sin.extend_from_slice(s);
        }
        let shape = (batch.len(), 1, self.decoder.config.head_dim / 2);
        Ok((
            Tensor::from_vec(cos, shape, &self.device)?,
            Tensor::from_vec(sin, shape, &self.device)?,
        ))
    }
}

impl Core for CandleCore {
    fn params(&mut self) -> &mut Tensors {
        match &mut self.lora {
            Some(lora) => &mut lora.tensors,
            None => &mut self.decoder.weights,
        }
    }

    fn loss(&mut self, batch: &Batch) -> std::result::Result<Loss, CoreError> {
        self.run(batch, None, None).map_err(core_error)
    }

    fn gradients(
        &mut self,
        batch: &Batch,
        dropout: Dropout,
        scale: f32,
        gradients: &mut Tensors,
    ) -> std::result::Result<Loss, CoreError> {
        let gradients = Some((scale, gradients));
        self.run(batch, Some(dropout), gradients)
            .map_err(core_error)
    }
}

/// candle's message without the backtrace it holds when `RUST_BACKTRACE` is set.
fn core_error(error: Error) -> CoreError {
    let text = error.to_string();
    let end = text.find("\n   0: ").unwrap_or(text.len());
    CoreError(format!("candle: {}", text[..end].trim_end()))
}

fn upload(tensors: &Tensors, device: &Device) -> Result<Vec<Tensor>> {
    tensors
        .iter()
        .map(|t| Tensor::from_slice(&t.data, t.shape.as_slice(), device))
        .collect()
}

fn rotated(x: &Tensor, (cos, sin): &(Tensor, Tensor)) -> Result<Tensor> {
    let half = x.dim(2)? / 2;
    let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    Tensor::cat(&[first, second], 2)
}

fn soft_cap(x: Tensor, cap: Option<f64>) -> Result<Tensor> {
    match cap {
        Some(cap) => (x / cap)?.tanh()? * cap,
        None => Ok(x),
    }
}

/// One forward pass, recorded for differentiation.
struct Graph<'a> {
    core: &'a CandleCore,
    batch: &'a Batch,
    dropout: Option<Dropout>,
    vars: Vec<&'a Tensor>,
    layers: Vec<Layer>,
}

/// What a block needs besides its weights.
struct Layer {
    cos_sin: Option<(Tensor, Tensor)>,
    mask: Tensor,
}

impl Graph<'_> {
    fn weight(&self, id: TensorId) -> &Tensor {
        match self.core.lora {
            Some(_) => &self.core.weights[id.index()],
            None => self.vars[id.index()],
        }
    }

    /// Sum of the counted tokens' losses, and their number.
    fn loss(&self) -> Result<(Tensor, usize)> {
        let (decoder, device) = (&self.core.decoder, &self.core.device);
        let layout = &decoder.layout;
        let tokens = Tensor::new(self.batch.tokens.as_slice(), device)?;
        let mut x = self.weight(layout.embed).index_select(&tokens, 0)?;
        if let Some(factor) = decoder.config.embedding_scale() {
            x = (x * f64::from(factor))?;
        }
        if let Some(chance) = self.dropout {
            let mut noise = vec![0.0; x.elem_count()];
            chance.add_noise(self.batch, &mut noise);
            x = (&x + Tensor::from_vec(noise, x.shape(), device)?)?;
        }
        for layer in 0..decoder.config.layers {
            x = self.block(layer, &x)?;
        }
        let x = self.norm(layout.norm, &x)?;
        let counted = (0u32..).zip(&self.batch.targets);
        let (rows, targets): (Vec<u32>, Vec<u32>) =
            counted.filter(|(_, target)| **target != IGNORE).unzip();
        let n = rows.len();
        let x = x.index_select(&Tensor::new(rows, device)?, 0)?;
        let logits = x.matmul(&self.weight(layout.head).t()?)?;
        let logits = soft_cap(logits, decoder.config.logit_cap)?;
        let targets = Tensor::new(targets, device)?.unsqueeze(1)?;
        let likely = ops::log_softmax(&logits, D::Minus1)?.gather(&targets, 1)?;
        Ok((likely.sum_all()?.neg()?, n))
    }

    fn norm(&self, weight: TensorId, x: &Tensor) -> Result<Tensor> {
        let config = &self.core.decoder.config;
        let eps = config.norm_eps as f32;
        match config.norm_plus_one {
            true => ops::rms_norm_slow(x, &(self.weight(weight) + 1.0)?, eps),
            false => ops::rms_norm_slow(x, self.weight(weight), eps),
        }
    }

    fn block(&self, layer: usize, x: &Tensor) -> Result<Tensor> {
        let ids = &self.core.decoder.layout.layers[layer];
        let attention = |x: &Tensor| self.attention(layer, x);
        let x = self.branch(ids.attention_norms, x, attention)?;
        self.branch(ids.mlp_norms, &x, |x| self.mlp(layer, x))
    }

    /// x plus a branch on it, with the norms around the branch.
    fn branch(
        &self,
        norms: BranchNorms,
        x: &Tensor,
        branch: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut y = match norms.before {
            Some(id) => branch(&self.norm(id, x)?)?,
            None => branch(x)?,
        };
        if let Some(id) = norms.after {
            y = self.norm(id, &y)?;
        }
        x + y
    }

    fn mlp(&self, layer: usize, x: &Tensor) -> Result<Tensor> {
        let gate = self.linear(layer, Slot::Gate, x)?;
        let gate = match self.core.decoder.config.activation {
            Activation::Silu => ops::silu(&gate)?,
            Activation::GeluTanh => gate.gelu()?,
        };
        let up = self.linear(layer, Slot::Up, x)?;
        self.linear(layer, Slot::Down, &(gate * up)?)
    }

    fn attention(&self, layer: usize, x: &Tensor) -> Result<Tensor> {
        let config = &self.core.decoder.config;
        let norms = self.core.decoder.layout.layers[layer].qk_norms;
        let (tokens, width) = (self.batch.len(), config.head_dim);
        let heads = |slot, heads: usize, norm: Option<TensorId>, rotate: bool| {
            let mut x = self.linear(layer, slot, x)?;
            if let Some(norm) = norm {
                let last = self.weight(norm).elem_count();
                let rows = x.elem_count() / last;
                x = self.norm(norm, &x.reshape((rows, last))?)?;
            }
            let mut x = x.reshape((tokens, heads, width))?;
            if let (true, Some(cos_sin)) = (rotate, &self.layers[layer].cos_sin) {
                x = rotated(&x, cos_sin)?;
            }
            x.transpose(0, 1)?.contiguous()
        };
        let q = heads(Slot::Q, config.heads, norms.map(|n| n[0]), true)?;
        let k = heads(Slot::K, config.kv_heads, norms.map(|n| n[1]), true)?;
        let v = heads(Slot::V, config.kv_heads, None, false)?;
        let (k, v) = (self.repeat(&k)?, self.repeat(&v)?);
        let root = config.query_scalar.unwrap_or(width as f64).sqrt();
        let scores = soft_cap((q.matmul(&k.t()?)? / root)?, config.attention_cap)?;
        let scores = scores.broadcast_add(&self.layers[layer].mask)?;
        let p = ops::softmax(&scores, D::Minus1)?;
        let out = p.matmul(&v)?.transpose(0, 1)?.contiguous()?;
        self.linear(
            layer,
            Slot::O,
            &out.reshape((tokens, config.heads * width))?,
        )
    }

    /// Each key or value head once for every query head it serves.
    fn repeat(&self, x: &Tensor) -> Result<Tensor> {
        let config = &self.core.decoder.config;
        let (kv_heads, tokens, width) = x.dims3()?;
        let group = config.heads / kv_heads;
        x.unsqueeze(1)?
            .broadcast_as((kv_heads, group, tokens, width))?
            .contiguous()?
            .reshape((config.heads, tokens, width))
    }

    fn linear(&self, layer: usize, slot: Slot, x: &Tensor) -> Result<Tensor> {
        let ids = self.core.decoder.layout.layers[layer].linear[slot as usize];
        let biased = |y: Tensor| match ids.bias {
            Some(bias) => y.broadcast_add(self.weight(bias)),
            None => Ok(y),
        };
        let weight = self.weight(ids.weight).t()?;
        let y = x.matmul(&weight)?;
        let Some((lora, pair)) = self
            .core
            .lora
            .as_ref()
            .and_then(|lora| Some((lora, lora.pair(layer, slot)?)))
        else {
            return biased(y);
        };
        let module = Module { layer, slot };
        let dropped = self.drop(lora, module, x)?;
        let (a, b) = (self.vars[pair.a.index()], self.vars[pair.b.index()]);
        let low = (dropped.matmul(&a.t()?)? * f64::from(pair.scale))?;
        let update = low.matmul(&b.t()?)?;
        let Some(id) = pair.magnitude else {
            return biased(y)? + update;
        };
        let norms = dora::norms(&self.core.decoder, lora, module, pair);
        let norms = Tensor::new(norms, &self.core.device)?;
        let factors = (self.vars[id.index()] / norms)?;
        let base = dropped.matmul(&weight)?;
        let more = base.broadcast_mul(&(&factors - 1.0)?)?;
        biased((y + more)?)? + update.broadcast_mul(&factors)?
    }

    /// x with the dropout of our own generator: candle's cannot be seeded.
    fn drop(&self, lora: &Lora, module: Module, x: &Tensor) -> Result<Tensor> {
        let stream = self.dropout.and_then(|d| dropout_stream(d, lora, module));
        let Some(stream) = stream else {
            return Ok(x.clone());
        };
        let mut mask = vec![1.0; x.elem_count()];
        elementwise::dropout(&mut mask, lora.config.dropout, &stream);
        x * Tensor::from_vec(mask, x.shape(), &self.core.device)?
    }
}
