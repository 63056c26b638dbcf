//! Text from a model: greedy and seeded sampling with a key/value cache, an adapter switched at run time.
//!
//! The bits of an answer do not depend on what else is in its batch, because
//! every row of a matrix product is computed in the same order whatever the
//! other rows are.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use super::adapter::{self, AdapterError, Base};
use super::batch::{Batch, BatchError, encode_chat};
use super::dora::{Magnitudes, scale_columns};
use super::kernels::attention::attend_cached;
use super::kernels::{Isa, Packed, View, elementwise, gemm_packed};
use super::layout::Slot;
use super::lora::Lora;
use super::model::{Decoder, ModelError};
use super::rng::Stream;
use super::tokenizer::{Tokenizer, TokenizerError};
use crate::data::{Message, Row};
use crate::hash::Digest;

/// Prompts that are answered at once.
const BATCH: usize = 16;

/// How an answer is generated.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The most tokens an answer may have, the end token not counted.
    pub max_new_tokens: usize,
    /// How the next token is chosen.
    pub sampling: Sampling,
}

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub enum Sampling {
    /// The most likely token; the lowest id among equals.
    Greedy,
    /// Drawn from the nucleus of the tempered distribution.
    Seeded {
        /// Seed of the draws; the same seed and prompt give the same text.
        seed: u64,
        /// Logits are divided by it; above 0.
        temperature: f64,
        /// The smallest set of tokens whose probability reaches this is kept; 1 keeps all.
        top_p: f64,
    },
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// A stop token came.
    Stop,
    /// `max_new_tokens` or the model's context was reached.
    Length,
}

/// One generated answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The answer, special tokens left out.
    pub text: String,
    /// Its tokens, without the stop token.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
}

/// The loss of a row's answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerLoss {
    /// Mean nats per answer token, the end token included.
    pub nats_per_token: f64,
    /// How many tokens that are.
    pub tokens: usize,
}

/// A model cannot be opened or cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The model cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The adapter cannot be used.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A row cannot be encoded.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The tokenizer has more tokens than the model.
    #[error(
        "the tokenizer {} has ids up to {}, but the model has only {vocabulary} tokens; use the tokenizer it was made for",
        path.display(), tokens - 1
    )]
    Vocabulary {
        /// The tokenizer.
        path: PathBuf,
        /// Its greatest id, plus one.
        tokens: usize,
        /// The model's.
        vocabulary: usize,
    },
    /// A text does not fit the model's context.
    #[error("a prompt or row of {tokens} tokens does not fit the model's context of {context}")]
    TooLong {
        /// Its length.
        tokens: usize,
        /// The model's.
        context: usize,
    },
    /// A prompt has no token to start from.
    #[error("a prompt is empty")]
    EmptyPrompt,
}

/// A model with its tokenizer and, if wanted, an adapter.
///
/// Work is shared out over the current rayon pool.
pub struct Generator {
    runner: Runner,
    base: Base,
    tokenizer: Tokenizer,
}

/// A decoder that goes on from the tokens it has already read.
struct Runner {
    decoder: Decoder,
    packed: PackedModel,
    adapter: Option<PackedAdapter>,
}

/// Weights in the order in which products read them.
struct PackedModel {
    layers: Vec<[Packed; 7]>,
    head: Packed,
}

/// An adapter, also packed.
struct PackedAdapter {
    lora: Lora,
    layers: Vec<[Option<PackedPair>; 7]>,
}

struct PackedPair {
    a: Packed,
    b: Packed,
    scale: f32,
    /// What DoRA multiplies the outputs with, bias aside.
    factors: Option<Vec<f32>>,
}

/// Keys and values of one sequence, by block: [positions, kv heads · width].
struct Cache {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

/// A token to run through the model.
#[derive(Clone, Copy)]
struct Input {
    sequence: usize,
    token: u32,
    position: usize,
}

/// A prompt on its way to an answer.
struct Answer {
    prompt: Vec<u32>,
    tokens: Vec<u32>,
    finish: Option<Finish>,
    draws: Stream,
}

impl Generator {
    /// Opens a model folder, a tokenizer folder and, if given, an adapter folder.
    pub fn open(
        model: &Path,
        tokenizer: &Path,
        adapter: Option<&Path>,
    ) -> Result<Self, GenerateError> {
        let decoder = Decoder::open(model, Isa::detect())?;
        let path = tokenizer.to_owned();
        let tokenizer = Tokenizer::open(tokenizer)?;
        if tokenizer.id_bound() > decoder.config.vocab_size {
            return Err(GenerateError::Vocabulary {
                path,
                tokens: tokenizer.id_bound(),
                vocabulary: decoder.config.vocab_size,
            });
        }
        let mut generator = Generator {
            base: Base::of(model)?,
            runner: Runner::new(decoder, None),
            tokenizer,
        };
        generator.set_adapter(adapter)?;
        Ok(generator)
    }

    /// Puts another adapter (or none) on the same base, without reading the base again.
    pub fn set_adapter(&mut self, adapter: Option<&Path>) -> Result<(), GenerateError> {
        self.runner.adapter = match adapter {
            None => None,
            Some(folder) => {
                let decoder = &self.runner.decoder;
                let lora = adapter::read(folder, &decoder.config, &self.base)?;
                Some(PackedAdapter::new(lora, decoder))
            }
        };
        Ok(())
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The prompt as the model sees it, with the words that open an answer.
    pub fn render(&self, messages: &[Message]) -> Result<String, GenerateError> {
        Ok(self.tokenizer.render(messages, true)?)
    }

    /// One answer.
    pub fn generate(
        &self,
        messages: &[Message],
        options: &Options,
    ) -> Result<Generation, GenerateError> {
        let mut all = self.generate_batch(&[messages], options)?;
        all.pop().ok_or(GenerateError::EmptyPrompt)
    }

    /// Many answers: the same texts as one by one, sooner.
    pub fn generate_batch(
        &self,
        prompts: &[&[Message]],
        options: &Options,
    ) -> Result<Vec<Generation>, GenerateError> {
        let mut generations = Vec::with_capacity(prompts.len());
        for prompts in prompts.chunks(BATCH) {
            let answers = prompts.iter().map(|prompt| self.begin(prompt, options));
            let mut answers: Vec<Answer> = answers.collect::<Result<_, _>>()?;
            self.answer(&mut answers, options);
            for answer in answers {
                generations.push(Generation {
                    text: self.tokenizer.decode(&answer.tokens)?,
                    token_ids: answer.tokens,
                    finish: answer.finish.unwrap_or(Finish::Length),
                });
            }
        }
        Ok(generations)
    }

    /// Mean loss of the row's answer given its prompt.
    pub fn answer_loss(&self, row: &Row) -> Result<AnswerLoss, GenerateError> {
        let encoded = encode_chat(row, &self.tokenizer)?;
        self.check_length(encoded.tokens.len() - 1)?;
        if row.answer().is_none() {
            return Err(GenerateError::Batch(BatchError::NoAnswer {
                row: row.id,
                origin: row.origin.clone(),
            }));
        }
        let batch = Batch::new([&encoded.sequence()]);
        let lora = self.runner.adapter.as_ref().map(|adapter| &adapter.lora);
        let loss = self.runner.decoder.loss(lora, &batch);
        Ok(AnswerLoss {
            nats_per_token: loss.mean(),
            tokens: loss.tokens,
        })
    }

    fn check_length(&self, tokens: usize) -> Result<(), GenerateError> {
        let context = self.runner.decoder.config.max_positions;
        match tokens > context {
            true => Err(GenerateError::TooLong { tokens, context }),
            false => Ok(()),
        }
    }

    fn begin(&self, messages: &[Message], options: &Options) -> Result<Answer, GenerateError> {
        let text = self.render(messages)?;
        let prompt = self.tokenizer.encode(&text)?;
        if prompt.is_empty() {
            return Err(GenerateError::EmptyPrompt);
        }
        self.check_length(prompt.len())?;
        let seed = match options.sampling {
            Sampling::Greedy => 0,
            Sampling::Seeded { seed, .. } => seed,
        };
        let digest = Digest::of(text.as_bytes()).to_string();
        Ok(Answer {
            prompt,
            tokens: Vec::new(),
            finish: None,
            draws: Stream::new(seed, "sample", 0, &digest),
        })
    }

    /// Reads each prompt, then adds a token to every unfinished answer until none is left.
    fn answer(&self, answers: &mut [Answer], options: &Options) {
        let layers = self.runner.decoder.config.layers;
        let mut caches: Vec<Cache> = answers.iter().map(|_| Cache::new(layers)).collect();
        for (sequence, answer) in answers.iter_mut().enumerate() {
            let tokens = answer.prompt.iter().enumerate();
            let inputs: Vec<Input> = tokens
                .map(|(position, token)| Input {
                    sequence,
                    token: *token,
                    position,
                })
                .collect();
            let hidden = self.runner.run(&inputs, &mut caches);
            let last = hidden.len() - self.runner.decoder.config.hidden_size;
            let logits = self.runner.logits(&hidden[last..]);
            self.extend(answer, &logits, options);
        }
        loop {
            let active: Vec<usize> = (0..answers.len())
                .filter(|i| answers[*i].finish.is_none())
                .collect();
            if active.is_empty() {
                return;
            }
            let inputs: Vec<Input> = active
                .iter()
                .filter_map(|i| {
                    Some(Input {
                        sequence: *i,
                        token: *answers[*i].tokens.last()?,
                        position: answers[*i].prompt.len() + answers[*i].tokens.len() - 1,
                    })
                })
                .collect();
            let logits = self.runner.logits(&self.runner.run(&inputs, &mut caches));
            let rows = logits.chunks_exact(self.runner.decoder.config.vocab_size);
            for (i, row) in active.into_iter().zip(rows) {
                self.extend(&mut answers[i], row, options);
            }
        }
    }

    /// Adds the next token to an answer, or finishes it.
    fn extend(&self, answer: &mut Answer, logits: &[f32], options: &Options) {
        let length = answer.tokens.len();
        let full = answer.prompt.len() + length >= self.runner.decoder.config.max_positions;
        let token = match options.sampling {
            Sampling::Greedy => greedy(logits),
            Sampling::Seeded {
                temperature, top_p, ..
            } => {
                let draw = answer.draws.uniform64(length as u64);
                sample(logits, temperature, top_p, draw)
            }
        };
        if self.tokenizer.is_stop(token) {
            answer.finish = Some(Finish::Stop);
        } else if full || length >= options.max_new_tokens {
            answer.finish = Some(Finish::Length);
        } else {
            answer.tokens.push(token);
        }
    }
}

impl Runner {
    fn new(decoder: Decoder, lora: Option<Lora>) -> Self {
        Runner {
            packed: PackedModel::new(&decoder),
            adapter: lora.map(|lora| PackedAdapter::new(lora, &decoder)),
            decoder,
        }
    }

    fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        let (width, vocabulary) = (
            self.decoder.config.hidden_size,
            self.decoder.config.vocab_size,
        );
        let rows = hidden.len() / width;
        let mut logits = vec![0.0; rows * vocabulary];
        let view = View::new(hidden, rows, width);
        gemm_packed(
            self.decoder.isa(),
            view,
            &self.packed.head,
            &mut logits,
            vocabulary,
            false,
        );
        self.decoder.cap_logits(&mut logits);
        logits
    }

    /// Runs tokens through all blocks, adding to the caches; returns the head's input.
    fn run(&self, inputs: &[Input], caches: &mut [Cache]) -> Vec<f32> {
        let decoder = &self.decoder;
        let mut x = decoder.embed(inputs.iter().map(|input| input.token));
        for layer in 0..decoder.config.layers {
            self.block(layer, inputs, caches, &mut x);
        }
        decoder.norm(decoder.layout.norm, &x)
    }

    fn block(&self, layer: usize, inputs: &[Input], caches: &mut [Cache], x: &mut [f32]) {
        let decoder = &self.decoder;
        let ids = &decoder.layout.layers[layer];
        let linear = |slot, x: &[f32]| self.linear(layer, slot, x);

        let norms = ids.attention_norms;
        let normed = norms.before.map(|id| decoder.norm(id, x));
        let attended = self.attend(layer, inputs, caches, normed.as_deref().unwrap_or(x));
        let mut branch = linear(Slot::O, &attended);
        if let Some(id) = norms.after {
            branch = decoder.norm(id, &branch);
        }
        elementwise::add(x, &branch);

        let norms = ids.mlp_norms;
        let normed = norms.before.map(|id| decoder.norm(id, x));
        let input = normed.as_deref().unwrap_or(x);
        let (gate, up) = (linear(Slot::Gate, input), linear(Slot::Up, input));
        let mut product = vec![0.0; gate.len()];
        let activation = decoder.config.activation;
        elementwise::gated(decoder.isa(), activation, &gate, &up, &mut product);
        let mut branch = linear(Slot::Down, &product);
        if let Some(id) = norms.after {
            branch = decoder.norm(id, &branch);
        }
        elementwise::add(x, &branch);
    }

    /// Adds keys and values to the caches and lets every query attend to its own sequence.
    fn attend(&self, layer: usize, inputs: &[Input], caches: &mut [Cache], x: &[f32]) -> Vec<f32> {
        let (decoder, config) = (&self.decoder, &self.decoder.config);
        let mut q = self.linear(layer, Slot::Q, x);
        let mut k = self.linear(layer, Slot::K, x);
        let v = self.linear(layer, Slot::V, x);
        if let Some([q_norm, k_norm]) = decoder.layout.layers[layer].qk_norms {
            q = decoder.norm(q_norm, &q);
            k = decoder.norm(k_norm, &k);
        }
        let (width, kv_width) = (config.head_dim, config.kv_heads * config.head_dim);
        let q_width = config.heads * width;
        for (row, input) in inputs.iter().enumerate() {
            let q = q[row * q_width..][..q_width].chunks_exact_mut(width);
            let k = &mut k[row * kv_width..][..kv_width];
            if let Some(rotary) = decoder.rotary(layer) {
                for head in q.chain(k.chunks_exact_mut(width)) {
                    rotary.rotate(head, input.position as u32, false);
                }
            }
            let cache = &mut caches[input.sequence];
            cache.keys[layer].extend_from_slice(k);
            cache.values[layer].extend_from_slice(&v[row * kv_width..][..kv_width]);
        }
        let mut out = vec![0.0; q.len()];
        let group = config.heads / config.kv_heads;
        let scoring = config.scoring(layer);
        out.par_chunks_mut(q_width)
            .zip(q.par_chunks(q_width))
            .zip(inputs)
            .for_each(|((out, q), input)| {
                let cache = &caches[input.sequence];
                let heads = out.chunks_exact_mut(width).zip(q.chunks_exact(width));
                let mut scores = Vec::new();
                for (head, (out, q)) in heads.enumerate() {
                    let start = head / group * width;
                    let (keys, values) = (&cache.keys[layer], &cache.values[layer]);
                    attend_cached(
                        decoder.isa(),
                        q,
                        &keys[start..],
                        &values[start..],
                        input.position + 1,
                        kv_width,
                        scoring,
                        &mut scores,
                        out,
                    );
                }
            });
        out
    }

    fn linear(&self, layer: usize, slot: Slot, x: &[f32]) -> Vec<f32> {
        let decoder = &self.decoder;
        let isa = decoder.isa();
        let (outputs, inputs) = slot.size(&decoder.config);
        let rows = x.len() / inputs;
        let mut y = vec![0.0; rows * outputs];
        let packed = &self.packed.layers[layer][slot as usize];
        gemm_packed(
            isa,
            View::new(x, rows, inputs),
            packed,
            &mut y,
            outputs,
            false,
        );
        let adapter = self.adapter.as_ref();
        let pair = adapter.and_then(|adapter| adapter.layers[layer][slot as usize].as_ref());
        let factors = pair.and_then(|pair| pair.factors.as_ref());
        let bias = decoder.layout.layers[layer].linear[slot as usize].bias;
        let bias = bias.map(|bias| decoder.weights.get(bias));
        if let (None, Some(bias)) = (factors, bias) {
            elementwise::add_bias(&mut y, bias);
        }
        if let Some(pair) = pair {
            let rank = pair.a.cols();
            let mut low = vec![0.0; rows * rank];
            gemm_packed(
                isa,
                View::new(x, rows, inputs),
                &pair.a,
                &mut low,
                rank,
                false,
            );
            elementwise::scale(&mut low, pair.scale);
            gemm_packed(
                isa,
                View::new(&low, rows, rank),
                &pair.b,
                &mut y,
                outputs,
                true,
            );
        }
        if let Some(factors) = factors {
            scale_columns(&mut y, factors);
            bias.into_iter()
                .for_each(|bias| elementwise::add_bias(&mut y, bias));
        }
        y
    }
}

impl PackedModel {
    fn new(decoder: &Decoder) -> Self {
        let pack = |id, (outputs, inputs)| {
            Packed::new(View::new(decoder.weights.get(id), outputs, inputs).t())
        };
        let config = &decoder.config;
        let layers = decoder.layout.layers.iter().map(|ids| {
            Slot::ALL.map(|slot| pack(ids.linear[slot as usize].weight, slot.size(config)))
        });
        PackedModel {
            layers: layers.collect(),
            head: pack(decoder.layout.head, (config.vocab_size, config.hidden_size)),
        }
    }
}

impl PackedAdapter {
    fn new(lora: Lora, decoder: &Decoder) -> Self {
        let mut magnitudes = Magnitudes::of(decoder, &lora);
        let mut pack = |layer, slot: Slot| {
            let pair = lora.pair(layer, slot)?;
            let rank = pair.rank;
            let (outputs, inputs) = slot.size(&decoder.config);
            let a = View::new(lora.tensors.get(pair.a), rank, inputs);
            let b = View::new(lora.tensors.get(pair.b), outputs, rank);
            Some(PackedPair {
                a: Packed::new(a.t()),
                b: Packed::new(b.t()),
                scale: pair.scale,
                factors: magnitudes
                    .as_mut()
                    .and_then(|all| all.take_factors(layer, slot)),
            })
        };
        let layers = (0..decoder.config.layers)
            .map(|layer| Slot::ALL.map(|slot| pack(layer, slot)))
            .collect();
        PackedAdapter { lora, layers }
    }
}

impl Cache {
    fn new(layers: usize) -> Self {
        Cache {
            keys: vec![Vec::new(); layers],
            values: vec![Vec::new(); layers],
        }
    }
}

fn greedy(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = i;
        }
    }
    best as u32
}

/// The token at `draw` ∈ [0, 1) of the nucleus.
fn sample(logits: &[f32], temperature: f64, top_p: f64, draw: f64) -> u32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weigh = |logit: &f32| libm::exp(f64::from(logit - max) / temperature);
    let mut weights: Vec<(f64, u32)> = logits.iter().map(weigh).zip(0..).collect();
    weights.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let total: f64 = weights.iter().map(|(weight, _)| weight).sum();
    let mut kept = 0.0;
    let count = weights.iter().position(|(weight, _)| {
        kept += weight;
        kept >= top_p * total
    });
    let nucleus = &weights[..count.map_or(weights.len(), |last| last + 1)];
    let mut left = draw * nucleus.iter().map(|(weight, _)| weight).sum::<f64>();
    for (weight, token) in nucleus {
        left -= weight;
        if left < 0.0 {
            return *token;
        }
    }
    nucleus[nucleus.len() - 1].1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ml::tests::families::{Reference, folders};
    use crate::ml::tests::{
        configs, random_decoder, random_dora, random_lora, relative_error, sequence,
    };

    /// Logits of `tokens`, of which the first `prompt` are read at once, the others one by one.
    fn logits(runner: &Runner, tokens: &[u32], prompt: usize) -> Vec<f32> {
        let mut caches = [Cache::new(runner.decoder.config.layers)];
        let inputs = tokens.iter().enumerate().map(|(position, token)| Input {
            sequence: 0,
            token: *token,
            position,
        });
        let inputs: Vec<Input> = inputs.collect();
        let (first, others) = inputs.split_at(prompt);
        let mut logits = runner.logits(&runner.run(first, &mut caches));
        for input in others {
            logits.extend(runner.logits(&runner.run(&[*input], &mut caches)));
        }
        logits
    }

    #[test]
    fn the_likeliest_tokens_are_those_of_transformers() {
        for folder in folders() {
            let reference = Reference::read(&folder);
            let decoder = Decoder::open(&folder, Isa::detect()).unwrap();
            let lora = reference.lora(&decoder);
            let runner = Runner::new(decoder, Some(lora));
            let theirs = reference.integers("greedy");
            let prompt = &reference.integers("tokens")[..24];
            let mut tokens: Vec<u32> = prompt.iter().map(|token| *token as u32).collect();
            for _ in &theirs {
                let all = logits(&runner, &tokens, 24);
                let vocabulary = runner.decoder.config.vocab_size;
                tokens.push(greedy(&all[all.len() - vocabulary..]));
            }
            let ours: Vec<i32> = tokens[24..].iter().map(|token| *token as i32).collect();
            assert_eq!(ours, theirs, "{}", folder.display());
        }
    }

    #[test]
    fn going_on_from_a_cache_is_the_whole_forward_pass() {
        let adapters = [random_lora, random_dora];
        let all = configs()
            .into_iter()
            .flat_map(|c| adapters.map(|a| (c.clone(), a)));
        for ((name, config), lora) in all {
            let lora = lora(&config, 0.0);
            let sequence = sequence(80, config.vocab_size, 0, 4);
            let decoder = random_decoder(&config, Isa::detect());
            let whole = decoder.logits(Some(&lora), &Batch::new([&sequence]));
            let runner = Runner::new(decoder, Some(lora));
            for prompt in [1, 50] {
                let parts = logits(&runner, &sequence.tokens, prompt);
                let error = relative_error(&parts, &whole);
                assert!(error < 2e-6, "{name}: logits are off by {error:e}");
            }
        }
    }

    #[test]
    fn sampling_keeps_to_the_nucleus_and_its_shares() {
        let logits: Vec<f32> = [0.5f32, 0.3, 0.15, 0.05].iter().map(|p| p.ln()).collect();
        let mut counts = [0; 4];
        for i in 0..1000 {
            counts[sample(&logits, 1.0, 0.9, f64::from(i) / 1000.0) as usize] += 1;
        }
        assert_eq!(counts[3], 0, "outside of the nucleus");
        assert!((counts[0] - 526_i32).abs() < 3, "{counts:?}");
        assert_eq!(greedy(&logits), 0);
        assert_eq!(sample(&logits, 0.01, 1.0, 0.99), 0, "cold is greedy");
    }
}
