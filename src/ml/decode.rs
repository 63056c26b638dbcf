//! The decoder token after token: keys and values are kept, and weights are read where they lie.
//!
//! Every token's numbers come out the same whatever is computed beside it:
//! products, norms and attention treat each row on its own.

use rayon::prelude::*;

use super::dora::{Magnitudes, scale_columns};
use super::kernels::attention::attend_cached;
use super::kernels::{FEW, Part, View, elementwise, gemm, gemm_few};
use super::layout::Slot;
use super::lora::Lora;
use super::model::Decoder;

/// Tokens of prompts that are read at once: what bounds a long prompt's memory.
pub(super) const CHUNK: usize = 256;
/// Multiply-adds of attention below which it stays on one thread.
const SMALL: usize = 1 << 15;

/// A decoder, perhaps with an adapter, that goes on from the tokens it has already read.
pub(super) struct Runner {
    pub(super) decoder: Decoder,
    pub(super) lora: Option<Lora>,
    /// The adapter's, where it has some.
    magnitudes: Option<Magnitudes>,
}

/// A token to run through the model. Those of a sequence come in the order of
/// their positions, each right behind what its cache holds.
#[derive(Clone, Copy)]
pub(super) struct Input {
    pub(super) sequence: usize,
    pub(super) token: u32,
    pub(super) position: usize,
}

/// The keys and values of one sequence.
#[derive(Clone)]
pub(super) struct Cache {
    layers: Vec<LayerCache>,
    /// Positions that were read.
    length: usize,
}

/// Those of one block; a block with a window drops what it no longer sees.
#[derive(Clone)]
struct LayerCache {
    /// [kv heads, capacity, width].
    keys: Vec<f32>,
    /// [kv heads, capacity, width].
    values: Vec<f32>,
    capacity: usize,
    /// The position in the first place.
    first: usize,
    window: Option<usize>,
    kv_heads: usize,
    width: usize,
}

impl Cache {
    /// A cache with room for `positions`.
    pub(super) fn new(decoder: &Decoder, positions: usize) -> Self {
        let config = &decoder.config;
        let layers = config.attention.iter().map(|attention| LayerCache {
            keys: Vec::new(),
            values: Vec::new(),
            capacity: 0,
            first: 0,
            window: attention.window,
            kv_heads: config.kv_heads,
            width: config.head_dim,
        });
        let mut cache = Cache {
            layers: layers.collect(),
            length: 0,
        };
        cache.reserve(positions);
        cache
    }

    /// Makes room for `positions` in all.
    pub(super) fn reserve(&mut self, positions: usize) {
        for layer in &mut self.layers {
            let wanted = match layer.window {
                Some(window) => positions.min(window + CHUNK),
                None => positions,
            };
            layer.grow(wanted, self.length);
        }
    }

    /// Forgets all but the first `length` positions. False where a window has
    /// dropped what the next token would see; then all is forgotten.
    pub(super) fn truncate(&mut self, length: usize) -> bool {
        let whole = |layer: &LayerCache| match layer.window {
            Some(window) => layer.first == 0 || layer.first + window <= length + 1,
            None => true,
        };
        let kept = length <= self.length && self.layers.iter().all(whole);
        self.length = if kept { length } else { 0 };
        if !kept {
            self.layers.iter_mut().for_each(|layer| layer.first = 0);
        }
        kept
    }

    /// Makes room for `rows` more positions.
    fn make_room(&mut self, rows: usize) {
        for layer in &mut self.layers {
            layer.make_room(self.length, rows);
        }
    }
}

impl LayerCache {
    /// Moves the `length` positions so far into more room.
    fn grow(&mut self, capacity: usize, length: usize) {
        if capacity <= self.capacity {
            return;
        }
        let held = (length - self.first) * self.width;
        for old in [&mut self.keys, &mut self.values] {
            let mut new = vec![0.0; self.kv_heads * capacity * self.width];
            let heads = new.chunks_exact_mut(capacity * self.width);
            for (new, old) in heads.zip(old.chunks_exact((self.capacity * self.width).max(1))) {
                new[..held].copy_from_slice(&old[..held]);
            }
            *old = new;
        }
        self.capacity = capacity;
    }

    fn make_room(&mut self, length: usize, rows: usize) {
        if length - self.first + rows <= self.capacity {
            return;
        }
        if let Some(window) = self.window {
            self.drop_before((length + 1).saturating_sub(window), length);
        }
        let needed = length - self.first + rows;
        if needed > self.capacity {
            self.grow(needed.max(2 * self.capacity), length);
        }
    }

    /// Forgets the positions before `first`.
    fn drop_before(&mut self, first: usize, length: usize) {
        if first <= self.first {
            return;
        }
        let (from, to) = (first - self.first, length - self.first);
        let rows = from * self.width..to * self.width;
        for all in [&mut self.keys, &mut self.values] {
            for head in all.chunks_exact_mut(self.capacity * self.width) {
                head.copy_within(rows.clone(), 0);
            }
        }
        self.first = first;
    }

    /// Puts a token's key and value, [kv heads, width], to their place.
    fn put(&mut self, position: usize, key: &[f32], value: &[f32]) {
        let place = (position - self.first) * self.width;
        for (all, new) in [(&mut self.keys, key), (&mut self.values, value)] {
            let heads = all.chunks_exact_mut(self.capacity * self.width);
            for (head, new) in heads.zip(new.chunks_exact(self.width)) {
                head[place..place + self.width].copy_from_slice(new);
            }
        }
    }

    /// The keys and values of a head, from the first position that is held.
    fn head(&self, head: usize) -> (&[f32], &[f32]) {
        let size = self.capacity * self.width;
        let range = head * size..(head + 1) * size;
        (&self.keys[range.clone()], &self.values[range])
    }
}

impl Runner {
    /// A decoder without an adapter, or with one.
    pub(super) fn new(decoder: Decoder, lora: Option<Lora>) -> Self {
        let mut runner = Runner {
            decoder,
            lora: None,
            magnitudes: None,
        };
        runner.set_lora(lora);
        runner
    }

    /// Puts another adapter on the decoder, or none.
    pub(super) fn set_lora(&mut self, lora: Option<Lora>) {
        let of = |lora| Magnitudes::of(&self.decoder, lora);
        self.magnitudes = lora.as_ref().and_then(of);
        self.lora = lora;
    }

    /// Logits [rows, vocabulary] of the head's input.
    pub(super) fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        let decoder = &self.decoder;
        let rows = hidden.len() / decoder.config.hidden_size;
        let mut logits = vec![0.0; rows * decoder.config.vocab_size];
        let head = decoder.weights.get(decoder.layout.head);
        self.products(hidden, rows, vec![(head, &mut logits, false)]);
        decoder.cap_logits(&mut logits);
        logits
    }

    /// Runs tokens through all blocks, adding to the caches; returns the head's input.
    pub(super) fn run(&self, inputs: &[Input], caches: &mut [Cache]) -> Vec<f32> {
        let decoder = &self.decoder;
        let mut rows = vec![0; caches.len()];
        for input in inputs {
            rows[input.sequence] += 1;
        }
        for (cache, rows) in caches.iter_mut().zip(&rows) {
            cache.make_room(*rows);
        }
        let mut x = decoder.embed(inputs.iter().map(|input| input.token));
        for layer in 0..decoder.config.layers {
            self.block(layer, inputs, caches, &mut x);
        }
        for (cache, rows) in caches.iter_mut().zip(&rows) {
            cache.length += rows;
        }
        decoder.norm(decoder.layout.norm, &x)
    }

    fn block(&self, layer: usize, inputs: &[Input], caches: &mut [Cache], x: &mut [f32]) {
        let decoder = &self.decoder;
        let ids = &decoder.layout.layers[layer];

        let norms = ids.attention_norms;
        let normed = norms.before.map(|id| decoder.norm(id, x));
        let attended = self.attend(layer, inputs, caches, normed.as_deref().unwrap_or(x));
        let [mut branch] = self.linear(layer, [Slot::O], &attended);
        if let Some(id) = norms.after {
            branch = decoder.norm(id, &branch);
        }
        elementwise::add(x, &branch);

        let norms = ids.mlp_norms;
        let normed = norms.before.map(|id| decoder.norm(id, x));
        let input = normed.as_deref().unwrap_or(x);
        let [gate, up] = self.linear(layer, [Slot::Gate, Slot::Up], input);
        let mut product = vec![0.0; gate.len()];
        let activation = decoder.config.activation;
        elementwise::gated(decoder.isa(), activation, &gate, &up, &mut product);
        let [mut branch] = self.linear(layer, [Slot::Down], &product);
        if let Some(id) = norms.after {
            branch = decoder.norm(id, &branch);
        }
        elementwise::add(x, &branch);
    }

    /// Adds keys and values to the caches and lets every query attend to its own sequence.
    fn attend(&self, layer: usize, inputs: &[Input], caches: &mut [Cache], x: &[f32]) -> Vec<f32> {
        let (decoder, config) = (&self.decoder, &self.decoder.config);
        let [mut q, mut k, v] = self.linear(layer, [Slot::Q, Slot::K, Slot::V], x);
        if let Some([q_norm, k_norm]) = decoder.layout.layers[layer].qk_norms {
            q = decoder.norm(q_norm, &q);
            k = decoder.norm(k_norm, &k);
        }
        let (width, kv_width) = (config.head_dim, config.kv_heads * config.head_dim);
        let rows = q.chunks_exact_mut(config.heads * width);
        let rows = rows.zip(k.chunks_exact_mut(kv_width).zip(v.chunks_exact(kv_width)));
        for (input, (q, (k, v))) in inputs.iter().zip(rows) {
            if let Some(rotary) = decoder.rotary(layer) {
                for head in q.chunks_exact_mut(width).chain(k.chunks_exact_mut(width)) {
                    rotary.rotate(head, input.position as u32, false);
                }
            }
            caches[input.sequence].layers[layer].put(input.position, k, v);
        }
        self.attended(layer, inputs, caches, &q)
    }

    /// The attended values of rotated queries, [rows, heads, width].
    fn attended(&self, layer: usize, inputs: &[Input], caches: &[Cache], q: &[f32]) -> Vec<f32> {
        let config = &self.decoder.config;
        let (isa, scoring) = (self.decoder.isa(), config.scoring(layer));
        let (width, group) = (config.head_dim, config.heads / config.kv_heads);
        let mut out = vec![0.0; q.len()];
        let one = |scores: &mut Vec<f32>, (index, (out, q)): (usize, (&mut [f32], &[f32]))| {
            let input = inputs[index / config.heads];
            let cache = &caches[input.sequence].layers[layer];
            let (keys, values) = cache.head(index % config.heads / group);
            let held = input.position + 1 - cache.first;
            attend_cached(isa, q, keys, values, held, width, scoring, scores, out);
        };
        let seen = |input: &Input| scoring.seen(input.position + 1).len();
        let work = inputs.iter().map(seen).sum::<usize>() * config.heads * width;
        if work < SMALL {
            let mut scores = Vec::new();
            let heads = out.chunks_exact_mut(width).zip(q.chunks_exact(width));
            heads.enumerate().for_each(|head| one(&mut scores, head));
        } else {
            let heads = out
                .par_chunks_exact_mut(width)
                .zip(q.par_chunks_exact(width));
            heads.enumerate().for_each_init(Vec::new, one);
        }
        out
    }

    /// Linear layers of one input, with their biases and adapters.
    fn linear<const N: usize>(&self, layer: usize, slots: [Slot; N], x: &[f32]) -> [Vec<f32>; N] {
        let decoder = &self.decoder;
        let size = |slot: Slot| slot.size(&decoder.config);
        let rows = x.len() / size(slots[0]).1;
        let mut all = slots.map(|slot| vec![0.0; rows * size(slot).0]);
        let ids = |slot: Slot| decoder.layout.layers[layer].linear[slot as usize];
        let weight = |slot: Slot| decoder.weights.get(ids(slot).weight);
        let parts = slots.iter().zip(&mut all);
        let parts = parts.map(|(slot, y)| (weight(*slot), y.as_mut_slice(), false));
        self.products(x, rows, parts.collect());
        for (slot, y) in slots.into_iter().zip(&mut all) {
            let magnitudes = self.magnitudes.as_ref();
            let factors = magnitudes.and_then(|all| all.factors(layer, slot));
            let bias = ids(slot).bias.map(|id| decoder.weights.get(id));
            if let (None, Some(bias)) = (factors, bias) {
                elementwise::add_bias(y, bias);
            }
            self.add_adapter(layer, slot, x, rows, y);
            if let Some(factors) = factors {
                scale_columns(y, factors);
                if let Some(bias) = bias {
                    elementwise::add_bias(y, bias);
                }
            }
        }
        all
    }

    /// y ← y + scale · x·Aᵀ·Bᵀ where the module has an adapter.
    fn add_adapter(&self, layer: usize, slot: Slot, x: &[f32], rows: usize, y: &mut [f32]) {
        let Some(lora) = &self.lora else {
            return;
        };
        let Some(pair) = lora.pair(layer, slot) else {
            return;
        };
        let mut low = vec![0.0; rows * pair.rank];
        self.products(x, rows, vec![(lora.tensors.get(pair.a), &mut low, false)]);
        elementwise::scale(&mut low, pair.scale);
        self.products(&low, rows, vec![(lora.tensors.get(pair.b), y, true)]);
    }

    /// Each out ← x·Wᵀ, or out + x·Wᵀ; W is [columns, k].
    fn products(&self, x: &[f32], rows: usize, parts: Vec<(&[f32], &mut [f32], bool)>) {
        let isa = self.decoder.isa();
        if rows <= FEW {
            let part = |(weights, out, accumulate)| Part {
                weights,
                out,
                accumulate,
            };
            return gemm_few(isa, x, rows, parts.into_iter().map(part).collect());
        }
        let view = View::new(x, rows, x.len() / rows);
        for (weights, out, accumulate) in parts {
            let columns = out.len() / rows;
            let weights = View::new(weights, columns, x.len() / rows);
            gemm(isa, view, weights.t(), out, columns, accumulate);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ml::batch::Batch;
    use crate::ml::kernels::Isa;
    use crate::ml::sampling::greedy;
    use crate::ml::tests::families::{Reference, folders};
    use crate::ml::tests::{
        configs, random_decoder, random_dora, random_lora, relative_error, sequence,
    };

    fn inputs(sequence: usize, tokens: &[u32], from: usize) -> Vec<Input> {
        let input = |(i, token): (usize, &u32)| Input {
            sequence,
            token: *token,
            position: from + i,
        };
        tokens.iter().enumerate().map(input).collect()
    }

    /// Logits of `tokens`, of which the first `prompt` are read at once, the others one by one.
    fn logits(runner: &Runner, tokens: &[u32], prompt: usize) -> Vec<f32> {
        let mut caches = [Cache::new(&runner.decoder, 1)];
        let inputs = inputs(0, tokens, 0);
        let (first, others) = inputs.split_at(prompt);
        let mut logits = runner.logits(&runner.run(first, &mut caches));
        for input in others {
            logits.extend(runner.logits(&runner.run(&[*input], &mut caches)));
        }
        logits
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn the_likeliest_tokens_are_those_of_transformers() {
        for folder in folders() {
            let reference = Reference::read(&folder);
            let decoder = Decoder::open(&folder, Isa::detect()).unwrap();
            let lora = Some(reference.lora(&decoder));
            let runner = Runner::new(decoder, lora);
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
            .flat_map(|config| adapters.map(|adapter| (config.clone(), adapter)));
        for ((name, config), lora) in all {
            let lora = lora(&config, 0.0);
            let sequence = sequence(80, config.vocab_size, 0, 4);
            let decoder = random_decoder(&config, Isa::detect());
            let whole = decoder.logits(Some(&lora), &Batch::new([&sequence]));
            let runner = Runner::new(decoder, Some(lora));
            let mut first = None;
            for prompt in [1, 50] {
                let parts = logits(&runner, &sequence.tokens, prompt);
                let error = relative_error(&parts, &whole);
                assert!(error < 2e-6, "{name}: logits are off by {error:e}");
                let first = first.get_or_insert_with(|| bits(&parts));
                assert_eq!(*first, bits(&parts), "{name}: {prompt} at once");
            }
        }
    }

    /// Windows drop positions only when room is short: with this much of it they do.
    #[test]
    fn a_window_that_moves_on_changes_nothing() {
        for (name, mut config) in configs() {
            config.max_positions = 3 * CHUNK;
            let tokens = sequence(2 * CHUNK + 90, config.vocab_size, 0, 4).tokens;
            let runner = Runner::new(random_decoder(&config, Isa::detect()), None);
            let read = |step: usize, positions: usize| {
                let mut caches = [Cache::new(&runner.decoder, positions)];
                let mut last = Vec::new();
                for (i, tokens) in tokens.chunks(step).enumerate() {
                    last = runner.run(&inputs(0, tokens, i * step), &mut caches);
                }
                let [cache] = caches;
                (bits(&last[last.len() - config.hidden_size..]), cache)
            };
            let (whole, _) = read(tokens.len(), tokens.len());
            for step in [1, 100, CHUNK] {
                let (parts, mut cache) = read(step, tokens.len());
                assert_eq!(parts, whole, "{name}: {step} at a time");
                let windows = cache.layers.iter().filter(|layer| layer.window.is_some());
                for layer in windows {
                    assert!(layer.capacity <= layer.window.unwrap() + CHUNK, "{name}");
                    assert!(layer.first > 0, "{name}: something was dropped");
                }
                let dropped = cache.layers.iter().any(|layer| layer.first > 0);
                assert!(cache.truncate(tokens.len() - 1), "{name}");
                assert_eq!(cache.truncate(10), !dropped, "{name}");
            }
        }
    }

    #[test]
    fn a_cache_goes_on_from_any_point_it_still_has() {
        for (name, config) in configs() {
            let tokens = sequence(60, config.vocab_size, 0, 4).tokens;
            let runner = Runner::new(random_decoder(&config, Isa::detect()), None);
            let wanted = bits(&logits(&runner, &tokens, 1));
            let mut caches = [Cache::new(&runner.decoder, 4)];
            let other = sequence(60, config.vocab_size, 0, 5).tokens;
            runner.run(&inputs(0, &tokens[..30], 0), &mut caches);
            runner.run(&inputs(0, &other[..20], 30), &mut caches);
            assert!(caches[0].truncate(30), "{name}");
            let mut rest = runner.logits(&runner.run(&inputs(0, &tokens[30..40], 30), &mut caches));
            rest.extend(runner.logits(&runner.run(&inputs(0, &tokens[40..], 40), &mut caches)));
            let rest = bits(&rest);
            assert_eq!(rest, wanted[wanted.len() - rest.len()..], "{name}");
            assert!(!caches[0].truncate(61), "{name}: more than there is");
            assert_eq!(caches[0].length, 0);
        }
    }

    #[test]
    fn threads_and_neighbours_change_no_bit() {
        for (name, config) in configs() {
            let lora = Some(random_lora(&config, 0.0));
            let decoder = random_decoder(&config, Isa::detect());
            let runner = Runner::new(decoder, lora);
            let tokens: Vec<Vec<u32>> = (0..5)
                .map(|seed| sequence(10 + seed as usize, config.vocab_size, 0, seed).tokens)
                .collect();
            let alone: Vec<Vec<u32>> = tokens
                .iter()
                .map(|t| bits(&logits(&runner, t, t.len())))
                .collect();
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                let together = pool.install(|| {
                    let mut caches = vec![Cache::new(&runner.decoder, 20); 5];
                    let all = tokens.iter().enumerate();
                    let all: Vec<Input> = all.flat_map(|(i, t)| inputs(i, t, 0)).collect();
                    runner.logits(&runner.run(&all, &mut caches))
                });
                assert_eq!(bits(&together), alone.concat(), "{name}, {threads} threads");
            }
        }
    }
}
