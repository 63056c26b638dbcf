//! Rows as tokens: what counts for the loss, truncation, packing and order.

use std::ops::Range;

use super::rng::Stream;
use super::tokenizer::{Tokenizer, TokenizerError};
use crate::data::{Content, Row, RowId};

/// The target of a token that does not count.
pub const IGNORE: u32 = u32::MAX;

/// One row (or a piece of a long text) as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// The tokens the model reads.
    pub tokens: Vec<u32>,
    /// For each of them the one it must predict, or [`IGNORE`].
    pub targets: Vec<u32>,
}

impl Sequence {
    /// A sequence of `tokens`, of which those from `first` on count.
    fn new(tokens: &[u32], first: usize) -> Self {
        let targets = (1..tokens.len()).map(|i| if i < first { IGNORE } else { tokens[i] });
        let mut sequence = Sequence {
            tokens: tokens.to_vec(),
            targets: targets.collect(),
        };
        // The last token has no successor; it is read by nobody.
        sequence.tokens.pop();
        sequence
    }

    /// Number of tokens that count.
    pub fn counted(&self) -> usize {
        self.targets.iter().filter(|t| **t != IGNORE).count()
    }
}

/// Sequences one behind the other, as the model sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// All tokens.
    pub tokens: Vec<u32>,
    /// The place of each token in its sequence.
    pub positions: Vec<u32>,
    /// The token each must predict, or [`IGNORE`].
    pub targets: Vec<u32>,
    /// Where each sequence lies.
    pub sequences: Vec<Range<usize>>,
}

impl Batch {
    /// Packs sequences.
    pub fn new<'a>(sequences: impl IntoIterator<Item = &'a Sequence>) -> Self {
        let mut batch = Batch::default();
        for sequence in sequences {
            let start = batch.tokens.len();
            batch.tokens.extend_from_slice(&sequence.tokens);
            batch.targets.extend_from_slice(&sequence.targets);
            batch.positions.extend(0..sequence.tokens.len() as u32);
            batch.sequences.push(start..batch.tokens.len());
        }
        batch
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Number of tokens that count.
    pub fn counted(&self) -> usize {
        self.targets.iter().filter(|t| **t != IGNORE).count()
    }
}

/// Which tokens of a chat row count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossOn {
    /// All of them.
    Everything,
    /// The last assistant message and its end token.
    Completion,
}

/// A row cannot be trained on.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// It cannot be rendered or encoded.
    #[error("row {}: {source}", row.0.short())]
    Tokenizer {
        /// The row.
        row: RowId,
        /// Why.
        source: TokenizerError,
    },
    /// The loss is on the answer, and there is none.
    #[error("row {} from {origin} has no answer: its last message is not the assistant's", row.0.short())]
    NoAnswer {
        /// The row.
        row: RowId,
        /// Where it came from.
        origin: String,
    },
    /// A preference has two answers, and training reads one.
    #[error(
        "row {} from {origin} is a preference, and training reads rows with one answer; import it with take = \"chosen\"",
        row.0.short()
    )]
    Preference {
        /// The row.
        row: RowId,
        /// Where it came from.
        origin: String,
    },
    /// Nothing is left to learn from.
    #[error(
        "no row has a token to learn from: {masked} rows were cut off before their answer, {empty} are empty; raise max_length"
    )]
    NothingCounts {
        /// Rows whose answer lies beyond the maximum length.
        masked: usize,
        /// Rows without tokens.
        empty: usize,
    },
}

/// What became of the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct RowCounts {
    /// Rows read.
    pub rows: usize,
    /// Rows cut off at the maximum length.
    pub truncated: usize,
    /// Of those, rows left out because nothing of their answer remained.
    pub fully_masked: usize,
    /// Rows left out because they have fewer than two tokens.
    pub empty: usize,
}

/// The row that a sequence is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRef {
    /// Its id.
    pub id: RowId,
    /// Where it came from, as [`Row::origin`].
    pub origin: String,
}

impl RowRef {
    /// The file it came from, or `@` for a finding.
    pub fn source(&self) -> &str {
        if self.origin.starts_with('@') {
            return "@";
        }
        match self.origin.rsplit_once(':') {
            Some((file, line)) if line.bytes().all(|b| b.is_ascii_digit()) => file,
            _ => &self.origin,
        }
    }
}

/// A data set as sequences.
#[derive(Debug, Clone, Default)]
pub struct Sequences {
    /// In the order of the rows.
    pub all: Vec<Sequence>,
    /// The row of each sequence.
    pub rows: Vec<RowRef>,
    /// What became of the rows.
    pub counts: RowCounts,
}

impl Sequences {
    /// Encodes rows. Chat rows are cut off at `max_length` tokens; plain text
    /// is split into pieces of that length instead, so that none of it is lost.
    pub fn encode(
        rows: &[Row],
        tokenizer: &Tokenizer,
        max_length: usize,
        loss_on: LossOn,
    ) -> Result<Self, BatchError> {
        let mut sequences = Sequences::default();
        for row in rows {
            sequences.counts.rows += 1;
            sequences.add(row, tokenizer, max_length, loss_on)?;
            let of = RowRef {
                id: row.id,
                origin: row.origin.clone(),
            };
            sequences.rows.resize(sequences.all.len(), of);
        }
        if sequences.all.is_empty() {
            return Err(BatchError::NothingCounts {
                masked: sequences.counts.fully_masked,
                empty: sequences.counts.empty,
            });
        }
        Ok(sequences)
    }

    fn add(
        &mut self,
        row: &Row,
        tokenizer: &Tokenizer,
        max_length: usize,
        loss_on: LossOn,
    ) -> Result<(), BatchError> {
        let on_row = |source| BatchError::Tokenizer {
            row: row.id,
            source,
        };
        if let Content::Text(text) = &row.content {
            let tokens = tokenizer.encode_document(text).map_err(on_row)?;
            self.add_pieces(&tokens, max_length);
            return Ok(());
        }
        let encoded = encode_chat(row, tokenizer)?;
        let first = match loss_on {
            LossOn::Everything => 0,
            LossOn::Completion if row.answer().is_none() => {
                return Err(BatchError::NoAnswer {
                    row: row.id,
                    origin: row.origin.clone(),
                });
            }
            LossOn::Completion => encoded.prompt,
        };
        let mut tokens = encoded.tokens.as_slice();
        // One more token than is read: the last is only predicted.
        if tokens.len() > max_length + 1 {
            self.counts.truncated += 1;
            tokens = &tokens[..max_length + 1];
        }
        if tokens.len() < 2 {
            self.counts.empty += 1;
        } else if first >= tokens.len() {
            self.counts.fully_masked += 1;
        } else {
            self.all.push(Sequence::new(tokens, first));
        }
        Ok(())
    }

    fn add_pieces(&mut self, tokens: &[u32], max_length: usize) {
        if tokens.len() < 2 {
            self.counts.empty += 1;
        }
        let mut start = 0;
        while start + 1 < tokens.len() {
            let end = (start + max_length + 1).min(tokens.len());
            self.all.push(Sequence::new(&tokens[start..end], 0));
            start = end - 1;
        }
    }
}

/// A chat row as tokens.
pub struct EncodedChat {
    /// Prompt and answer; the answer ends with its end token.
    pub tokens: Vec<u32>,
    /// How many of them are the prompt.
    pub prompt: usize,
}

impl EncodedChat {
    /// As a sequence whose answer counts.
    pub fn sequence(&self) -> Sequence {
        Sequence::new(&self.tokens, self.prompt)
    }
}

/// Encodes a chat row. The prompt is encoded on its own, exactly as it is when
/// an answer is generated.
pub fn encode_chat(row: &Row, tokenizer: &Tokenizer) -> Result<EncodedChat, BatchError> {
    let messages = match &row.content {
        Content::Messages(messages) => messages,
        Content::Text(_) => {
            return Err(BatchError::NoAnswer {
                row: row.id,
                origin: row.origin.clone(),
            });
        }
        Content::Preference { .. } => {
            return Err(BatchError::Preference {
                row: row.id,
                origin: row.origin.clone(),
            });
        }
    };
    let encode = || {
        let Some(_) = row.answer() else {
            let tokens = tokenizer.encode(&tokenizer.render(messages, false)?)?;
            return Ok(EncodedChat { tokens, prompt: 0 });
        };
        let (prompt, answer) = tokenizer.render_parts(messages)?;
        let mut tokens = tokenizer.encode(&prompt)?;
        let prompt = tokens.len();
        tokens.extend(tokenizer.encode(&answer)?);
        // What the template puts behind the end token is not the model's to say.
        let end = tokens[prompt..].iter().position(|t| tokenizer.is_stop(*t));
        if let Some(end) = end {
            tokens.truncate(prompt + end + 1);
        }
        Ok(EncodedChat { tokens, prompt })
    };
    encode().map_err(|source| BatchError::Tokenizer {
        row: row.id,
        source,
    })
}

/// One optimizer step: which sequences, in which micro-batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepPlan {
    /// The epoch, from 0.
    pub epoch: u64,
    /// Sequence numbers by micro-batch.
    pub batches: Vec<Vec<usize>>,
}

/// All optimizer steps of one epoch: sequences in the order given by (seed,
/// epoch), filled into micro-batches of at most `batch_tokens` tokens (a longer
/// sequence gets one for itself), `accumulation` of which make a step.
pub fn plan_epoch(
    sequences: &[Sequence],
    seed: u64,
    epoch: u64,
    batch_tokens: usize,
    accumulation: usize,
) -> Vec<StepPlan> {
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    Stream::new(seed, "order", epoch, "").shuffle(&mut order);
    let batches = pack(sequences, order, batch_tokens);
    let steps = batches.chunks(accumulation.max(1));
    steps
        .map(|batches| StepPlan {
            epoch,
            batches: batches.to_vec(),
        })
        .collect()
}

/// Fills sequences, in order, into batches of at most `batch_tokens` tokens.
pub fn pack(
    sequences: &[Sequence],
    order: impl IntoIterator<Item = usize>,
    batch_tokens: usize,
) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut filled = usize::MAX;
    for index in order {
        let length = sequences[index].tokens.len();
        if filled.saturating_add(length) > batch_tokens || batches.is_empty() {
            batches.push(Vec::new());
            filled = 0;
        }
        filled += length;
        if let Some(batch) = batches.last_mut() {
            batch.push(index);
        }
    }
    batches
}
