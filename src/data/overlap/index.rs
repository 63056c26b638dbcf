//! The index over evaluation rows: which n-gram stands in which of them, and how much it tells.

use std::collections::HashMap;

use super::reference::{Reference, References};
use crate::data::words::{grams, words};

/// Words in a gram of the weighted overlap.
pub const SHORT: usize = 5;
/// Words in a gram of the share that PaLM takes.
pub const MIDDLE: usize = 8;
/// Words in a gram of which GPT-3 takes one to be enough.
pub const LONG: usize = 13;
/// A gram is a template's only when at least this many evaluation rows hold it.
const MIN_COMMON: usize = 16;

/// A question, an answer or a passage.
#[derive(Debug, Default, Clone)]
pub struct Part {
    /// Its words.
    pub words: Vec<u64>,
    /// Its distinct 5-grams, sorted, with the weight of each: `ln(1 + N / df)`
    /// over the N evaluation rows that have such a part.
    pub grams: Vec<(u64, f64)>,
    /// The sum of the weights.
    pub weight: f64,
}

impl Part {
    fn new(text: &str) -> Self {
        let words: Vec<u64> = words(text).map(|(_, hash)| hash).collect();
        let grams = distinct(grams(&words, SHORT));
        Part {
            words,
            grams: grams.into_iter().map(|gram| (gram, 0.0)).collect(),
            weight: 0.0,
        }
    }

    /// The weight of one of its grams; none for another gram.
    pub fn weight_of(&self, gram: u64) -> Option<f64> {
        let at = self.grams.binary_search_by_key(&gram, |(gram, _)| *gram);
        at.ok().map(|at| self.grams[at].1)
    }

    /// What the distinct, sorted `found` have of its weight, 0 to 1.
    pub fn overlap(&self, found: &[u64]) -> f64 {
        let sum: f64 = found.iter().filter_map(|&gram| self.weight_of(gram)).sum();
        if self.weight > 0.0 {
            (sum / self.weight).min(1.0)
        } else {
            0.0
        }
    }
}

/// An evaluation row as it is compared.
#[derive(Debug)]
pub struct Item {
    /// The question.
    pub question: Part,
    /// The answer.
    pub answer: Option<Part>,
    /// The passage.
    pub passage: Option<Part>,
    /// Distinct 8-grams of question and answer that are no template's.
    pub middle: usize,
}

impl Item {
    fn new(reference: &Reference) -> Self {
        Item {
            question: Part::new(&reference.question),
            answer: reference.answer.as_deref().map(Part::new),
            passage: reference.passage.as_deref().map(Part::new),
            middle: 0,
        }
    }

    /// Words of all parts.
    pub fn words(&self) -> usize {
        let of = |part: &Option<Part>| part.as_ref().map_or(0, |part| part.words.len());
        self.question.words.len() + of(&self.answer) + of(&self.passage)
    }
}

/// Grams and the items that hold each.
#[derive(Debug, Default)]
pub struct Postings {
    /// One bit for each value of a gram's low bits: most grams of training
    /// data are in no evaluation row, and this says so without a lookup.
    filter: Vec<u64>,
    places: HashMap<u64, (u32, u32)>,
    items: Vec<u32>,
    /// Grams left out because too many items hold them.
    pub common: usize,
}

impl Postings {
    /// `pairs` of a gram and an item, in any order; a gram that more than
    /// `limit` items hold is left out.
    fn new(mut pairs: Vec<(u64, u32)>, limit: usize) -> Self {
        pairs.sort_unstable();
        pairs.dedup();
        let bits = (pairs.len().max(64) * 16).next_power_of_two();
        let mut postings = Postings {
            filter: vec![0; bits / 64],
            ..Postings::default()
        };
        for run in pairs.chunk_by(|a, b| a.0 == b.0) {
            if run.len() > limit {
                postings.common += 1;
                continue;
            }
            let gram = run[0].0;
            let start = postings.items.len() as u32;
            postings.items.extend(run.iter().map(|(_, item)| item));
            postings.places.insert(gram, (start, run.len() as u32));
            let bit = gram as usize & (bits - 1);
            postings.filter[bit / 64] |= 1 << (bit % 64);
        }
        postings
    }

    /// The items that hold a gram.
    pub fn of(&self, gram: u64) -> &[u32] {
        let bit = gram as usize & (self.filter.len() * 64 - 1);
        if self.filter[bit / 64] & 1 << (bit % 64) == 0 {
            return &[];
        }
        match self.places.get(&gram) {
            Some(&(start, count)) => &self.items[start as usize..(start + count) as usize],
            None => &[],
        }
    }
}

/// The index.
#[derive(Debug)]
pub struct Index {
    /// The evaluation rows in the order of their references.
    pub items: Vec<Item>,
    /// 5-grams of questions.
    pub short: Postings,
    /// 8-grams of questions and answers.
    pub middle: Postings,
    /// 13-grams of questions and answers.
    pub long: Postings,
    /// Questions with fewer words than [`MIDDLE`], by all of their words: of
    /// these only a training prompt that is the same counts.
    pub brief: HashMap<Vec<u64>, Vec<u32>>,
}

impl Index {
    /// Indexes evaluation rows. Grams that more than `common` (a share, 0 to 1)
    /// of them hold, and more than 16, are a template's and left out.
    pub fn new(references: &References, common: f64) -> Self {
        let mut items: Vec<Item> = references.rows.iter().map(Item::new).collect();
        let limit = ((items.len() as f64 * common) as usize).max(MIN_COMMON);
        weigh(&mut items);
        let both = |n: usize| {
            let mut pairs = Vec::new();
            for (at, item) in (0..).zip(&items) {
                let parts = [Some(&item.question), item.answer.as_ref()];
                for part in parts.into_iter().flatten() {
                    pairs.extend(grams(&part.words, n).into_iter().map(|gram| (gram, at)));
                }
            }
            Postings::new(pairs, limit)
        };
        let (middle, long) = (both(MIDDLE), both(LONG));
        let mut short = Vec::new();
        let mut brief: HashMap<Vec<u64>, Vec<u32>> = HashMap::new();
        for (at, item) in (0..).zip(&items) {
            short.extend(item.question.grams.iter().map(|(gram, _)| (*gram, at)));
            if item.question.words.len() < MIDDLE {
                brief
                    .entry(item.question.words.clone())
                    .or_default()
                    .push(at);
            }
        }
        for &item in &middle.items {
            items[item as usize].middle += 1;
        }
        Index {
            short: Postings::new(short, limit),
            items,
            middle,
            long,
            brief,
        }
    }
}

/// Gives every gram its weight, part by part.
fn weigh(items: &mut [Item]) {
    let parts: [fn(&mut Item) -> Option<&mut Part>; 3] = [
        |item| Some(&mut item.question),
        |item| item.answer.as_mut(),
        |item| item.passage.as_mut(),
    ];
    for part in parts {
        let mut held: HashMap<u64, u32> = HashMap::new();
        let mut with = 0.0;
        for part in items.iter_mut().filter_map(part) {
            with += 1.0;
            for (gram, _) in &part.grams {
                *held.entry(*gram).or_default() += 1;
            }
        }
        for part in items.iter_mut().filter_map(part) {
            for (gram, weight) in &mut part.grams {
                *weight = libm::log(1.0 + with / f64::from(held[gram]));
            }
            part.weight = part.grams.iter().map(|(_, weight)| weight).sum();
        }
    }
}

/// Sorted, each once.
pub fn distinct(mut grams: Vec<u64>) -> Vec<u64> {
    grams.sort_unstable();
    grams.dedup();
    grams
}
