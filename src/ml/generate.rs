//! Text from a model: answers to prompts, alone, many at once or turn by turn, with an adapter switched at run time.
//!
//! The bits of an answer do not depend on what else is in its batch, on how
//! many threads there are, nor on whether its prompt was read anew or goes on
//! from a [`Session`].

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::adapter::{self, AdapterError, Base};
use super::batch::{Batch, BatchError, encode_chat};
use super::decode::{CHUNK, Cache, Input, Runner};
use super::kernels::Isa;
use super::model::{Decoder, ModelError};
use super::rng::Stream;
use super::tokenizer::{TextStream, Tokenizer, TokenizerError};
use crate::data::{Message, Row};
use crate::hash::Digest;

pub use super::sampling::{BadSampling, Sampling};

/// Answers that are written at once.
const BATCH: usize = 16;
/// Tokens of an answer for which there is room from the beginning.
const ROOM: usize = 1024;

/// How an answer is generated.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// The most tokens an answer may have, the end token not counted.
    pub max_new_tokens: usize,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// Texts that end an answer; they are no part of it.
    pub stop: Vec<String>,
    /// Tokens that end an answer, beside those that the tokenizer and the model name.
    pub stop_ids: Vec<u32>,
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// A stop token or a stop text came.
    Stop,
    /// `max_new_tokens` or the model's context was reached.
    Length,
    /// Whoever was given the text wanted no more.
    Interrupted,
}

/// One generated answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The answer, special tokens and the stop text left out.
    pub text: String,
    /// Its tokens, without the stop token but with those of a stop text.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
}

/// A text to go on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// As the model sees it.
    pub text: String,
    /// Its tokens, at least one.
    pub tokens: Vec<u32>,
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
    /// What the model's folder says about generation cannot be used.
    #[error(transparent)]
    Defaults(#[from] super::generation_config::DefaultsError),
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
    /// Tokens that end every answer.
    stops: Vec<u32>,
}

/// What was read in a conversation, so that its next turn only reads what is new.
pub struct Session {
    caches: [Cache; 1],
    /// The tokens in the cache.
    tokens: Vec<u32>,
}

/// A prompt on its way to an answer.
struct Answer<'a> {
    prompt: &'a [u32],
    /// Prompt and answer, for the repetition penalty.
    tokens: Vec<u32>,
    finish: Option<Finish>,
    draws: Stream,
    /// Its text as it grows, where anybody looks at it.
    stream: Option<TextStream<'a>>,
    /// Where a stop text begins.
    cut: Option<usize>,
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
        let mut stops = super::generation_config::stop_ids(model)?;
        stops.extend(tokenizer.turn_end());
        let mut generator = Generator {
            base: Base::of(model)?,
            runner: Runner::new(decoder, None),
            tokenizer,
            stops,
        };
        generator.set_adapter(adapter)?;
        Ok(generator)
    }

    /// Puts another adapter (or none) on the same base, without reading the
    /// base again. Sessions that began before must not go on.
    pub fn set_adapter(&mut self, adapter: Option<&Path>) -> Result<(), GenerateError> {
        let config = &self.runner.decoder.config;
        let read = |folder| adapter::read(folder, config, &self.base);
        let lora = adapter.map(read).transpose()?;
        self.runner.set_lora(lora);
        Ok(())
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The tokenizer, to be told another date.
    pub fn tokenizer_mut(&mut self) -> &mut Tokenizer {
        &mut self.tokenizer
    }

    /// The most tokens that prompt and answer have together.
    pub fn context(&self) -> usize {
        self.runner.decoder.config.max_positions
    }

    /// The prompt as the model sees it, with the words that open an answer.
    pub fn render(&self, messages: &[Message]) -> Result<String, GenerateError> {
        Ok(self.tokenizer.render(messages, true)?)
    }

    /// Messages by the chat template, as a prompt.
    pub fn chat(&self, messages: &[Message]) -> Result<Prompt, GenerateError> {
        let text = self.render(messages)?;
        let tokens = self.tokenizer.encode(&text)?;
        self.checked(Prompt { text, tokens })
    }

    /// A plain text, begun as the tokenizer begins every text, as a prompt.
    pub fn raw(&self, text: &str) -> Result<Prompt, GenerateError> {
        let tokens = self.tokenizer.encode_prompt(text)?;
        let text = text.to_owned();
        self.checked(Prompt { text, tokens })
    }

    fn checked(&self, prompt: Prompt) -> Result<Prompt, GenerateError> {
        if prompt.tokens.is_empty() {
            return Err(GenerateError::EmptyPrompt);
        }
        self.check_length(prompt.tokens.len())?;
        Ok(prompt)
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
        let prompts = prompts.iter().map(|messages| self.chat(messages));
        self.answers(&prompts.collect::<Result<Vec<_>, _>>()?, 1, options)
    }

    /// So many answers to each prompt, all those of the first prompt first.
    /// The first answer is what it is without others.
    pub fn answers(
        &self,
        prompts: &[Prompt],
        samples: u64,
        options: &Options,
    ) -> Result<Vec<Generation>, GenerateError> {
        let wanted = prompts
            .iter()
            .flat_map(|prompt| (0..samples).map(move |i| (prompt, i)));
        let wanted: Vec<(&Prompt, u64)> = wanted.collect();
        let mut generations = Vec::with_capacity(wanted.len());
        for some in wanted.chunks(BATCH) {
            let begun = some.iter().map(|(prompt, sample)| {
                Answer::new(prompt, *sample, options, self.streaming(options))
            });
            let mut answers: Vec<Answer<'_>> = begun.collect();
            self.write_all(&mut answers, options)?;
            for answer in answers {
                generations.push(self.finished(answer)?);
            }
        }
        Ok(generations)
    }

    /// The tokenizer where texts have to be looked at while they grow.
    fn streaming(&self, options: &Options) -> Option<&Tokenizer> {
        (!options.stop.is_empty()).then_some(&self.tokenizer)
    }

    /// A conversation that has not begun.
    pub fn session(&self) -> Session {
        Session {
            caches: [Cache::new(&self.runner.decoder, 0)],
            tokens: Vec::new(),
        }
    }

    /// One answer, whose text is handed out as it comes. What the session has
    /// read of the prompt already is not read again.
    pub fn answer(
        &self,
        session: &mut Session,
        prompt: &Prompt,
        sample: u64,
        options: &Options,
        mut give: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation, GenerateError> {
        let mut answer = Answer::new(prompt, sample, options, Some(&self.tokenizer));
        let mut hidden = self.go_on(session, prompt, options);
        let mut given = 0;
        loop {
            let mut logits = self.runner.logits(&hidden);
            self.extend(&mut answer, &mut logits, options)?;
            let safe = answer.safe(&options.stop);
            if safe > given {
                let text = answer.stream.as_ref().map_or("", |stream| stream.text());
                let flow = give(&text[given..safe]);
                given = safe;
                if flow.is_break() {
                    answer.finish = answer.finish.or(Some(Finish::Interrupted));
                }
            } else if give("").is_break() {
                answer.finish = answer.finish.or(Some(Finish::Interrupted));
            }
            if answer.finish.is_some() {
                break;
            }
            let position = answer.tokens.len() - 1;
            let token = answer.tokens[position];
            let input = Input {
                sequence: 0,
                token,
                position,
            };
            hidden = self.runner.run(&[input], &mut session.caches);
            session.tokens.push(token);
        }
        let generation = self.finished(answer)?;
        if let Some(rest) = generation.text.get(given..).filter(|rest| !rest.is_empty()) {
            // The answer is over anyway.
            let _ = give(rest);
        }
        Ok(generation)
    }

    /// Reads what the session has not read of a prompt; returns the head's
    /// input of the last token.
    fn go_on(&self, session: &mut Session, prompt: &Prompt, options: &Options) -> Vec<f32> {
        let same = session.tokens.iter().zip(&prompt.tokens);
        let same = same.take_while(|(a, b)| a == b).count();
        // The last token is read in any case: its logits are wanted.
        let mut kept = same.min(prompt.tokens.len() - 1);
        if !session.caches[0].truncate(kept) {
            kept = 0;
        }
        session.tokens.clone_from(&prompt.tokens);
        session.caches[0].reserve(self.room(prompt, options));
        let jobs = [(0, kept, &prompt.tokens[kept..])];
        self.read(&jobs, &mut session.caches)
    }

    fn room(&self, prompt: &Prompt, options: &Options) -> usize {
        let wanted = prompt.tokens.len() + options.max_new_tokens.min(ROOM);
        wanted.min(self.context())
    }

    /// Reads tokens, given with their sequence and first position, in chunks;
    /// returns the head's input of the last token of each.
    fn read(&self, jobs: &[(usize, usize, &[u32])], caches: &mut [Cache]) -> Vec<f32> {
        let width = self.runner.decoder.config.hidden_size;
        let mut inputs = Vec::new();
        let mut lasts = Vec::new();
        for (sequence, from, tokens) in jobs {
            let tokens = tokens.iter().enumerate();
            inputs.extend(tokens.map(|(i, token)| Input {
                sequence: *sequence,
                token: *token,
                position: from + i,
            }));
            lasts.push(inputs.len() - 1);
        }
        let mut found = Vec::with_capacity(jobs.len() * width);
        for (chunk, inputs) in inputs.chunks(CHUNK).enumerate() {
            let hidden = self.runner.run(inputs, caches);
            let range = chunk * CHUNK..chunk * CHUNK + inputs.len();
            for last in lasts.iter().filter(|last| range.contains(last)) {
                found.extend_from_slice(&hidden[(last - range.start) * width..][..width]);
            }
        }
        found
    }

    /// Reads all prompts, then adds a token to every unfinished answer until none is left.
    fn write_all(
        &self,
        answers: &mut [Answer<'_>],
        options: &Options,
    ) -> Result<(), GenerateError> {
        let (mut caches, hidden) = self.read_prompts(answers, options);
        let vocabulary = self.runner.decoder.config.vocab_size;
        let mut logits = self.runner.logits(&hidden);
        let mut active: Vec<usize> = (0..answers.len()).collect();
        loop {
            for (i, row) in active.iter().zip(logits.chunks_exact_mut(vocabulary)) {
                self.extend(&mut answers[*i], row, options)?;
            }
            active.retain(|i| answers[*i].finish.is_none());
            if active.is_empty() {
                return Ok(());
            }
            let next = |i: &usize| Input {
                sequence: *i,
                token: answers[*i].tokens[answers[*i].tokens.len() - 1],
                position: answers[*i].tokens.len() - 1,
            };
            let inputs: Vec<Input> = active.iter().map(next).collect();
            logits = self.runner.logits(&self.runner.run(&inputs, &mut caches));
        }
    }

    /// The caches of all prompts and the head's inputs behind them; a prompt
    /// that stands several times in a row is read once.
    fn read_prompts(&self, answers: &[Answer<'_>], options: &Options) -> (Vec<Cache>, Vec<f32>) {
        let decoder = &self.runner.decoder;
        let room = |answer: &Answer<'_>| {
            let wanted = answer.prompt.len() + options.max_new_tokens.min(ROOM);
            wanted.min(self.context())
        };
        let again = |i: usize| i > 0 && answers[i].prompt == answers[i - 1].prompt;
        let mut caches: Vec<Cache> = answers
            .iter()
            .enumerate()
            .map(|(i, answer)| Cache::new(decoder, if again(i) { 0 } else { room(answer) }))
            .collect();
        let fresh: Vec<usize> = (0..answers.len()).filter(|i| !again(*i)).collect();
        let jobs: Vec<(usize, usize, &[u32])> =
            fresh.iter().map(|i| (*i, 0, answers[*i].prompt)).collect();
        let read = self.read(&jobs, &mut caches);
        let mut hidden: Vec<f32> = Vec::new();
        let mut rows = read.chunks_exact(decoder.config.hidden_size);
        for i in 0..answers.len() {
            if again(i) {
                caches[i] = caches[i - 1].clone();
                hidden.extend_from_within(hidden.len() - decoder.config.hidden_size..);
            } else {
                hidden.extend_from_slice(rows.next().unwrap_or_default());
            }
        }
        (caches, hidden)
    }

    /// Adds the next token to an answer, or finishes it.
    fn extend(
        &self,
        answer: &mut Answer<'_>,
        logits: &mut [f32],
        options: &Options,
    ) -> Result<(), GenerateError> {
        let length = answer.tokens.len() - answer.prompt.len();
        let full = answer.tokens.len() >= self.context();
        let draw = match options.sampling.is_greedy() {
            true => 0.0,
            false => answer.draws.uniform64(length as u64),
        };
        let token = options.sampling.pick(logits, &answer.tokens, draw);
        if self.is_stop(token) || options.stop_ids.contains(&token) {
            answer.finish = Some(Finish::Stop);
        } else if full || length >= options.max_new_tokens {
            answer.finish = Some(Finish::Length);
        } else {
            answer.push(token, &options.stop)?;
        }
        Ok(())
    }

    fn is_stop(&self, token: u32) -> bool {
        self.tokenizer.is_stop(token) || self.stops.contains(&token)
    }

    fn finished(&self, answer: Answer<'_>) -> Result<Generation, GenerateError> {
        let token_ids = answer.tokens[answer.prompt.len()..].to_vec();
        let text = match (answer.cut, &answer.stream) {
            (Some(cut), Some(stream)) => stream.text()[..cut].to_owned(),
            _ => self.tokenizer.decode(&token_ids)?,
        };
        Ok(Generation {
            text,
            token_ids,
            finish: answer.finish.unwrap_or(Finish::Length),
        })
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
        let lora = self.runner.lora.as_ref();
        let loss = self.runner.decoder.loss(lora, &batch);
        Ok(AnswerLoss {
            nats_per_token: loss.mean(),
            tokens: loss.tokens,
        })
    }

    fn check_length(&self, tokens: usize) -> Result<(), GenerateError> {
        let context = self.context();
        match tokens > context {
            true => Err(GenerateError::TooLong { tokens, context }),
            false => Ok(()),
        }
    }
}

impl<'a> Answer<'a> {
    fn new(
        prompt: &'a Prompt,
        sample: u64,
        options: &Options,
        streaming: Option<&'a Tokenizer>,
    ) -> Self {
        let digest = Digest::of(prompt.text.as_bytes()).to_string();
        Answer {
            prompt: &prompt.tokens,
            tokens: prompt.tokens.clone(),
            finish: None,
            draws: Stream::new(options.sampling.seed, "sample", sample, &digest),
            stream: streaming.map(TextStream::new),
            cut: None,
        }
    }

    fn push(&mut self, token: u32, stops: &[String]) -> Result<(), GenerateError> {
        self.tokens.push(token);
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        let longest = stops.iter().map(String::len).max().unwrap_or(0);
        let mut from = stream.text().len().saturating_sub(longest);
        if !stream.push(token)? {
            return Ok(());
        }
        while !stream.text().is_char_boundary(from) {
            from -= 1;
        }
        let new = &stream.text()[from..];
        let found = stops.iter().filter_map(|stop| new.find(stop.as_str()));
        if let Some(at) = found.min() {
            self.cut = Some(from + at);
            self.finish = Some(Finish::Stop);
        }
        Ok(())
    }

    /// How many bytes of the text are sure to stay: no stop text begins in them.
    fn safe(&self, stops: &[String]) -> usize {
        let text = self.stream.as_ref().map_or("", |stream| stream.text());
        if let Some(cut) = self.cut {
            return cut;
        }
        if self.finish.is_some() {
            return text.len();
        }
        let begun = |stop: &String| {
            let sizes = stop.char_indices().map(|(at, _)| at).skip(1);
            sizes.filter(|size| text.ends_with(&stop[..*size])).max()
        };
        text.len() - stops.iter().filter_map(begun).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Role;
    use crate::ml::config::{Family, Sizes};
    use crate::ml::tests::random_decoder;
    use crate::ml::tokenizer;

    /// A random model of a family with windows, and a tokenizer for it.
    fn generator(family: Family) -> (tempfile::TempDir, Generator) {
        let (folder, tokenizer) = tokenizer::tests::small();
        let mut config = family.config(Sizes {
            vocab_size: tokenizer.id_bound(),
            hidden_size: 24,
            intermediate_size: 40,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 6,
            max_positions: 200,
        });
        for layer in &mut config.attention {
            layer.window = layer.window.map(|_| 20);
        }
        let decoder = random_decoder(&config, Isa::detect());
        let generator = Generator {
            runner: Runner::new(decoder, None),
            base: Base::default(),
            tokenizer,
            stops: Vec::new(),
        };
        (folder, generator)
    }

    fn user(text: &str) -> Vec<Message> {
        vec![Message::new(Role::User, text)]
    }

    fn warm(max_new_tokens: usize) -> Options {
        Options {
            max_new_tokens,
            sampling: Sampling {
                temperature: 1.2,
                top_p: 0.95,
                top_k: 50,
                repetition_penalty: 1.1,
                seed: 5,
                ..Sampling::default()
            },
            ..Options::default()
        }
    }

    fn stream(
        generator: &Generator,
        session: &mut Session,
        prompt: &Prompt,
        options: &Options,
    ) -> Generation {
        let mut text = String::new();
        let give = |piece: &str| {
            text.push_str(piece);
            ControlFlow::Continue(())
        };
        let generation = generator.answer(session, prompt, 0, options, give).unwrap();
        assert_eq!(text, generation.text, "the pieces are the text");
        generation
    }

    #[test]
    fn alone_together_streamed_or_in_a_session_the_answer_is_the_same() {
        for family in [Family::Llama, Family::Gemma3, Family::Olmo2] {
            let (_folder, generator) = generator(family);
            for options in [
                warm(30),
                Options {
                    max_new_tokens: 30,
                    ..Options::default()
                },
            ] {
                let texts = ["SELECT 1", "query", "why is the string built?", "x"];
                let prompts: Vec<Prompt> = texts
                    .iter()
                    .map(|t| generator.chat(&user(t)).unwrap())
                    .collect();
                let together = generator.answers(&prompts, 1, &options).unwrap();
                let mut session = generator.session();
                for (prompt, together) in prompts.iter().zip(&together) {
                    let alone = generator
                        .answers(std::slice::from_ref(prompt), 1, &options)
                        .unwrap();
                    assert_eq!(&alone[0], together);
                    let fresh = stream(&generator, &mut generator.session(), prompt, &options);
                    assert_eq!(&fresh, together);
                    let pool = rayon::ThreadPoolBuilder::new()
                        .num_threads(3)
                        .build()
                        .unwrap();
                    let going_on =
                        pool.install(|| stream(&generator, &mut session, prompt, &options));
                    assert_eq!(&going_on, together);
                }
            }
        }
    }

    #[test]
    fn a_conversation_goes_on_from_what_was_read() {
        for family in [Family::Llama, Family::Gemma3] {
            let (_folder, generator) = generator(family);
            let options = Options {
                max_new_tokens: 12,
                ..Options::default()
            };
            let mut session = generator.session();
            let mut messages = Vec::new();
            for turn in ["one", "two", "three"] {
                messages.push(Message::new(Role::User, turn));
                let prompt = generator.chat(&messages).unwrap();
                let fresh = stream(&generator, &mut generator.session(), &prompt, &options);
                let answer = stream(&generator, &mut session, &prompt, &options);
                assert_eq!(answer, fresh, "{turn}");
                assert!(session.tokens.starts_with(&prompt.tokens));
                messages.push(Message::new(Role::Assistant, answer.text));
            }
        }
    }

    #[test]
    fn samples_differ_and_the_first_is_the_only_one() {
        let (_folder, generator) = generator(Family::Llama);
        let prompts = [
            generator.raw("SELECT").unwrap(),
            generator.raw("query").unwrap(),
        ];
        let many = generator.answers(&prompts, 10, &warm(8)).unwrap();
        assert_eq!(many.len(), 20);
        let one = generator.answers(&prompts, 1, &warm(8)).unwrap();
        assert_eq!([&many[0], &many[10]], [&one[0], &one[1]]);
        let distinct: std::collections::BTreeSet<&[u32]> =
            many[..10].iter().map(|g| g.token_ids.as_slice()).collect();
        assert!(distinct.len() > 5, "{}", distinct.len());
    }

    #[test]
    fn a_stop_text_ends_the_answer_and_is_held_back() {
        let (_folder, generator) = generator(Family::Llama);
        let prompt = generator.raw("SELECT").unwrap();
        let plain = stream(&generator, &mut generator.session(), &prompt, &warm(40));
        let characters: Vec<char> = plain.text.chars().collect();
        assert!(characters.len() > 20, "{}", plain.text);
        for (from, to) in [(8, 9), (6, 12), (0, 2)] {
            let stop: String = characters[from..to].iter().collect();
            let at = plain.text.find(&stop).unwrap();
            let options = Options {
                stop: vec!["never there".to_owned(), stop],
                ..warm(40)
            };
            let cut = stream(&generator, &mut generator.session(), &prompt, &options);
            assert_eq!(
                (cut.text.as_str(), cut.finish),
                (&plain.text[..at], Finish::Stop)
            );
            assert!(plain.token_ids.starts_with(&cut.token_ids));
            let batch = generator
                .answers(std::slice::from_ref(&prompt), 1, &options)
                .unwrap();
            assert_eq!(batch[0], cut);
        }
        let stop_ids = vec![plain.token_ids[3]];
        let cut = generator
            .answers(
                &[prompt],
                1,
                &Options {
                    stop_ids,
                    ..warm(40)
                },
            )
            .unwrap();
        assert!(cut[0].token_ids.len() <= 3 && cut[0].finish == Finish::Stop);
    }

    #[test]
    fn who_listens_may_interrupt() {
        let (_folder, generator) = generator(Family::Llama);
        let prompt = generator.raw("SELECT").unwrap();
        let mut calls = 0;
        let give = |_: &str| {
            calls += 1;
            match calls < 3 {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let mut session = generator.session();
        let cut = generator
            .answer(&mut session, &prompt, 0, &warm(40), give)
            .unwrap();
        assert_eq!((cut.finish, cut.token_ids.len()), (Finish::Interrupted, 3));
        let whole = stream(&generator, &mut session, &prompt, &warm(40));
        assert!(
            whole.token_ids.starts_with(&cut.token_ids),
            "the session goes on"
        );
    }

    #[test]
    fn the_context_and_the_limit_end_an_answer() {
        let (_folder, generator) = generator(Family::Gemma3);
        let prompt = generator.raw(&"SELECT ".repeat(20)).unwrap();
        let never = Options {
            max_new_tokens: 5,
            ..Options::default()
        };
        let short = generator
            .answers(std::slice::from_ref(&prompt), 1, &never)
            .unwrap();
        assert!(short[0].token_ids.len() <= 5);
        let all = Options {
            max_new_tokens: 10_000,
            ..warm(0)
        };
        let long = stream(&generator, &mut generator.session(), &prompt, &all);
        assert!(long.finish == Finish::Stop || prompt.tokens.len() + long.token_ids.len() == 200);
        let beyond = generator.raw(&"SELECT 7 ".repeat(200)).unwrap_err();
        assert!(matches!(
            beyond,
            GenerateError::TooLong { context: 200, .. }
        ));
        assert!(matches!(generator.raw(""), Err(GenerateError::EmptyPrompt)));
    }
}
