//! One training row against the index: which evaluation rows it holds, by which rule, and where.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::index::{Index, Item, LONG, MIDDLE, Part, SHORT, distinct};
use crate::data::words::{grams, words};
use crate::data::{Role, Row};

/// Consecutive 5-grams that may differ (edits) before a match ends, as in decon.
const MISSES: usize = 11;
/// Words around a question in which its answer is looked for, at least.
const NEAR_ANSWER: usize = 20;
/// Words around a question in which its passage is looked for, at least.
const NEAR_PASSAGE: usize = 100;
/// Up to so many words a match has to be perfect, as in decon.
const PERFECT: f64 = 20.0;
/// From so many words on the threshold is enough.
const LENIENT: f64 = 50.0;
/// A question with so many distinct 5-grams has its full weight.
const SURE: f64 = 20.0;
/// What the order of floating-point sums may cost a perfect match.
const EPSILON: f64 = 1e-9;

/// Which overlaps make a training row contaminated.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Any 13-gram of a question or an answer (GPT-3, Brown et al. 2020, appendix C).
    pub thirteen: bool,
    /// At least this share of the 8-grams of question and answer (PaLM,
    /// Chowdhery et al. 2022, §8 takes 0.7); none: the rule is off.
    pub eight: Option<f64>,
    /// At least this score of IDF-weighted 5-grams over question, answer and
    /// passage (AI2's decon takes 0.8); none: the rule is off.
    pub weighted: Option<f64>,
}

/// What made a row contaminated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Rule {
    /// A shared 13-gram.
    #[serde(rename = "13-gram")]
    Thirteen,
    /// Enough shared 8-grams.
    #[serde(rename = "8-gram")]
    Eight,
    /// Enough weighted 5-grams.
    #[serde(rename = "weighted")]
    Weighted,
    /// A question of fewer than 8 words that is the training prompt.
    #[serde(rename = "same question")]
    Same,
}

impl Rule {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Thirteen => "13-gram",
            Rule::Eight => "8-gram",
            Rule::Weighted => "weighted",
            Rule::Same => "same question",
        }
    }
}

/// How much of an evaluation row a training row holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Match {
    /// The evaluation row, as an index into the references.
    pub item: usize,
    /// The rules by which it counts, never empty.
    pub rules: Vec<Rule>,
    /// decon's score of the best place, 0 to 1.
    pub score: f64,
    /// The weighted overlap of the question there, 0 to 1.
    pub question: f64,
    /// That of the answer near it; none without an answer.
    pub answer: Option<f64>,
    /// That of the passage near it; none without a passage.
    pub passage: Option<f64>,
    /// The share of the 8-grams of question and answer, 0 to 1.
    pub eight: f64,
    /// How many places hold a 13-gram.
    pub thirteen: usize,
    /// The words that agree, as ranges of word numbers of the row.
    pub words: Vec<Range<usize>>,
}

/// Where an evaluation row was met.
#[derive(Default)]
struct Hits {
    short: Vec<usize>,
    middle: Vec<(u64, usize)>,
    long: Vec<usize>,
    same: bool,
}

/// The text of a row as it is compared: message after message, a line each.
pub fn joined(row: &Row) -> String {
    let texts: Vec<&str> = row.texts().collect();
    texts.join("\n")
}

impl Index {
    /// The evaluation rows that `row` holds by one of the rules, in order.
    pub fn scan(&self, row: &Row, rules: &Rules) -> Vec<Match> {
        let text: Vec<u64> = words(&joined(row)).map(|(_, hash)| hash).collect();
        let short = grams(&text, SHORT);
        let hits = self.hits(row, &text, &short, rules);
        hits.into_iter()
            .filter_map(|(item, hits)| self.judge(item as usize, &hits, &text, &short, rules))
            .collect()
    }

    fn hits(&self, row: &Row, text: &[u64], short: &[u64], rules: &Rules) -> BTreeMap<u32, Hits> {
        let mut hits: BTreeMap<u32, Hits> = BTreeMap::new();
        if rules.weighted.is_some() {
            for (at, &gram) in short.iter().enumerate() {
                for &item in self.short.of(gram) {
                    hits.entry(item).or_default().short.push(at);
                }
            }
        }
        if rules.eight.is_some() {
            for (at, gram) in grams(text, MIDDLE).into_iter().enumerate() {
                for &item in self.middle.of(gram) {
                    hits.entry(item).or_default().middle.push((gram, at));
                }
            }
        }
        if rules.thirteen {
            for (at, gram) in grams(text, LONG).into_iter().enumerate() {
                for &item in self.long.of(gram) {
                    hits.entry(item).or_default().long.push(at);
                }
            }
        }
        if let Some(items) = brief(row).and_then(|words| self.brief.get(&words)) {
            for &item in items {
                hits.entry(item).or_default().same = true;
            }
        }
        hits
    }

    fn judge(
        &self,
        at: usize,
        hits: &Hits,
        text: &[u64],
        short: &[u64],
        rules: &Rules,
    ) -> Option<Match> {
        let item = &self.items[at];
        let best = best_place(item, &hits.short, text, short);
        let found = distinct(hits.middle.iter().map(|(gram, _)| *gram).collect()).len();
        let eight = if item.middle > 0 {
            found as f64 / item.middle as f64
        } else {
            0.0
        };
        let weighted = |least: f64| best.score + EPSILON >= required(item.words(), least);
        let mut by = Vec::new();
        let mut held = |holds: bool, rule| {
            if holds {
                by.push(rule)
            }
        };
        held(!hits.long.is_empty(), Rule::Thirteen);
        held(
            rules.eight.is_some_and(|least| found > 0 && eight >= least),
            Rule::Eight,
        );
        held(
            rules
                .weighted
                .is_some_and(|least| !best.words.is_empty() && weighted(least)),
            Rule::Weighted,
        );
        held(hits.same, Rule::Same);
        if by.is_empty() {
            return None;
        }
        let mut words = best.words;
        words.extend(hits.middle.iter().map(|(_, at)| *at..at + MIDDLE));
        words.extend(hits.long.iter().map(|&at| at..at + LONG));
        Some(Match {
            item: at,
            rules: by,
            score: best.score,
            question: best.question,
            answer: best.answer,
            passage: best.passage,
            eight,
            thirteen: hits.long.len(),
            words,
        })
    }
}

/// The words of a prompt that is short enough to be compared as a whole.
fn brief(row: &Row) -> Option<Vec<u64>> {
    let mut all = Vec::new();
    for message in row.prompt().iter().filter(|m| m.role != Role::System) {
        for (_, hash) in words(&message.content) {
            all.push(hash);
            if all.len() >= MIDDLE {
                return None;
            }
        }
    }
    (!all.is_empty()).then_some(all)
}

/// What an evaluation row of so many words must score, 0 to 1: all of a short
/// one, `least` of a long one, between them in proportion (decon's interpolation).
fn required(words: usize, least: f64) -> f64 {
    let done = ((words as f64 - PERFECT) / (LENIENT - PERFECT)).clamp(0.0, 1.0);
    1.0 - done * (1.0 - least)
}

/// A place in a training row that holds an evaluation row, more or less.
#[derive(Default)]
struct Place {
    score: f64,
    question: f64,
    answer: Option<f64>,
    passage: Option<f64>,
    words: Vec<Range<usize>>,
}

/// The place with the best score; the first of several.
fn best_place(item: &Item, seeds: &[usize], text: &[u64], short: &[u64]) -> Place {
    let mut best = Place::default();
    let mut behind = 0;
    for &seed in seeds.iter() {
        if seed < behind {
            continue;
        }
        let (first, last, found) = expand(&item.question, short, seed);
        behind = last + 1;
        let place = score(item, first..last + SHORT, &found, text, short);
        if place.score > best.score {
            best = place;
        }
    }
    best
}

/// From a 5-gram that a question holds to both sides, until [`MISSES`] in a row
/// are not the question's: the first and last that are, and all that were met.
fn expand(question: &Part, short: &[u64], seed: usize) -> (usize, usize, Vec<u64>) {
    let mut found = vec![short[seed]];
    let mut walk = |places: &mut dyn Iterator<Item = usize>| {
        let (mut end, mut misses) = (seed, 0);
        for at in places {
            if question.weight_of(short[at]).is_some() {
                found.push(short[at]);
                (end, misses) = (at, 0);
            } else {
                misses += 1;
                if misses == MISSES {
                    break;
                }
            }
        }
        end
    };
    let first = walk(&mut (0..seed).rev());
    let last = walk(&mut (seed + 1..short.len()));
    (first, last, distinct(found))
}

/// decon's score of a place: the overlaps of question, answer and passage by
/// fixed weights, the question's lowered while it is short.
fn score(item: &Item, at: Range<usize>, found: &[u64], text: &[u64], short: &[u64]) -> Place {
    let question = item.question.overlap(found);
    let near = |part: &Part, least: usize| {
        let around = least.max(2 * part.words.len());
        let window = at.start.saturating_sub(around)..(at.end + around).min(text.len());
        overlap_in(part, window, text, short)
    };
    let answer = item.answer.as_ref().map(|part| near(part, NEAR_ANSWER));
    let passage = item.passage.as_ref().map(|part| near(part, NEAR_PASSAGE));
    let of_question = match (answer, passage) {
        (Some(_), Some(_)) => 0.7,
        (Some(_), None) => 0.75,
        (None, Some(_)) => 0.85,
        (None, None) => 1.0,
    };
    let sure = (0.5 + 0.5 * item.question.grams.len() as f64 / SURE).min(1.0);
    let rest = match (answer, passage) {
        (Some(answer), Some(passage)) => Some((2.0 * answer + passage) / 3.0),
        (one, other) => one.or(other),
    };
    let score = match rest {
        None => question,
        Some(rest) => {
            let weight = of_question * sure;
            weight * question + (1.0 - weight) * rest
        }
    };
    Place {
        score,
        question,
        answer,
        passage,
        words: vec![at],
    }
}

/// How much of a part stands in a window of words: all or nothing of one that
/// is shorter than a 5-gram, else the weighted overlap.
fn overlap_in(part: &Part, window: Range<usize>, text: &[u64], short: &[u64]) -> f64 {
    let wanted = &part.words;
    if wanted.len() < SHORT {
        let held =
            !wanted.is_empty() && text[window].windows(wanted.len()).any(|run| run == wanted);
        return if held { 1.0 } else { 0.0 };
    }
    let end = (window.end + 1).saturating_sub(SHORT).max(window.start);
    part.overlap(&distinct(
        short[window.start..end.min(short.len())].to_vec(),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::reference::{Reference, References};
    use super::*;
    use crate::data::{Content, Message};
    use proptest::prelude::*;

    const ALL: Rules = Rules {
        thirteen: true,
        eight: Some(0.7),
        weighted: Some(0.8),
    };

    fn reference(question: &str, answer: Option<&str>, passage: Option<&str>) -> Reference {
        Reference {
            set: 0,
            origin: "e:1".into(),
            index: 0,
            split: None,
            question: question.into(),
            answer: answer.map(Into::into),
            passage: passage.map(Into::into),
        }
    }

    fn index(rows: Vec<Reference>) -> Index {
        let sets = vec!["e".to_owned()];
        Index::new(&References { sets, rows }, 0.1)
    }

    fn text(text: &str) -> Row {
        Row::new(Content::Text(text.into()), BTreeMap::new(), "t:1")
    }

    fn numbered(word: &str, n: usize) -> String {
        let words: Vec<String> = (0..n).map(|i| format!("{word}{i}")).collect();
        words.join(" ")
    }

    fn scan(index: &Index, row: &Row, rules: &Rules) -> Vec<Match> {
        index.scan(row, rules)
    }

    #[test]
    fn a_copy_inside_a_long_text_is_found_by_every_rule() {
        let index = index(vec![
            reference(&numbered("q", 60), Some("forty two"), None),
            reference(&numbered("z", 60), None, None),
        ]);
        let copy = text(&format!(
            "{} {} forty two {}",
            numbered("a", 200),
            numbered("Q", 60),
            numbered("b", 99)
        ));
        let found = scan(&index, &copy, &ALL);
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].rules,
            [Rule::Thirteen, Rule::Eight, Rule::Weighted]
        );
        assert_eq!(
            (found[0].score, found[0].question, found[0].answer),
            (1.0, 1.0, Some(1.0))
        );
        assert_eq!(found[0].words[0], 200..260);
        assert!(scan(&index, &text(&numbered("a", 300)), &ALL).is_empty());
    }

    #[test]
    fn an_edit_lowers_the_score_and_a_short_row_must_be_perfect() {
        let edited = |n: usize| {
            let index = index(vec![reference(&numbered("q", n), None, None)]);
            let copy = numbered("q", n).replace(&format!("q{} ", n / 2), "other ");
            let rules = Rules {
                thirteen: false,
                eight: None,
                weighted: Some(0.8),
            };
            scan(&index, &text(&copy), &rules).first().map(|m| m.score)
        };
        // One word of 60 costs five of 56 grams.
        assert!((edited(60).unwrap() - 51.0 / 56.0).abs() < 1e-9);
        assert_eq!(edited(20), None);
    }

    #[test]
    fn the_answer_must_stand_near_a_short_question() {
        let question = "what year was the great tower of the city built";
        let index = index(vec![reference(question, Some("1889"), None)]);
        let with = format!("Facts. {question}? It was 1889, they say.");
        let rules = Rules {
            thirteen: false,
            eight: None,
            weighted: Some(0.8),
        };
        assert_eq!(scan(&index, &text(&with), &rules)[0].score, 1.0);
        let without = with.replace("1889", "1890");
        assert!(scan(&index, &text(&without), &rules).is_empty());
        let far = format!("{question} {} 1889", numbered("w", 40));
        assert!(scan(&index, &text(&far), &rules).is_empty());
    }

    #[test]
    fn a_passage_alone_does_not_make_a_row_contaminated() {
        let passage = numbered("p", 80);
        let index = index(vec![reference(
            &numbered("q", 30),
            Some(&numbered("a", 9)),
            Some(&passage),
        )]);
        assert!(scan(&index, &text(&passage), &ALL).is_empty());
        let all = format!("{passage} {} {}", numbered("q", 30), numbered("a", 9));
        assert_eq!(scan(&index, &text(&all), &ALL)[0].passage, Some(1.0));
    }

    #[test]
    fn a_question_too_short_for_grams_is_found_when_it_is_the_prompt() {
        let index = index(vec![reference("Why is that?", Some("Because."), None)]);
        let chat = |prompt: &str| {
            let turns = vec![
                Message::new(Role::User, prompt),
                Message::new(Role::Assistant, "x"),
            ];
            Row::new(Content::Messages(turns), BTreeMap::new(), "t:1")
        };
        assert_eq!(
            scan(&index, &chat("why is that"), &ALL)[0].rules,
            [Rule::Same]
        );
        assert!(scan(&index, &chat("why is that so"), &ALL).is_empty());
    }

    #[test]
    fn what_many_evaluation_rows_share_is_a_template() {
        let template = numbered("template", 30);
        let rows = (0..100).map(|i| {
            reference(
                &format!("{template} {}", numbered(&format!("own{i}x"), 30)),
                None,
                None,
            )
        });
        let index = index(rows.collect());
        assert!(scan(&index, &text(&template), &ALL).is_empty());
        let found = scan(
            &index,
            &text(&format!("{template} {}", numbered("own7x", 30))),
            &ALL,
        );
        assert_eq!(found.iter().map(|m| m.item).collect::<Vec<_>>(), [7]);
        assert_eq!(found[0].score, 1.0);
    }

    proptest! {
        #[test]
        fn the_rules_hold_what_they_say(
            base in prop::collection::vec(0u32..400, 40..90),
            from in 0usize..60, kept in 5usize..60, noise in prop::collection::vec(1000u32..1400, 0..60),
        ) {
            let say = |words: &[u32]| words.iter().map(|w| format!("w{w}")).collect::<Vec<_>>().join(" ");
            let from = from.min(base.len() - 5);
            let part = &base[from..(from + kept).min(base.len())];
            let row = text(&format!("{} {} {}", say(&noise), say(part), say(&noise)));
            let index = index(vec![reference(&say(&base), None, None)]);
            let found = scan(&index, &row, &ALL);
            let grams_of = |words: &[u32], n: usize| words.windows(n).map(<[u32]>::to_vec).collect::<std::collections::BTreeSet<_>>();
            let whole = [&noise[..], part, &noise[..]].concat();
            let shares = |n: usize| {
                let (of_base, of_row) = (grams_of(&base, n), grams_of(&whole, n));
                (of_base.intersection(&of_row).count(), of_base.len())
            };
            let rules = found.first().map_or(&[][..], |m| &m.rules[..]);
            prop_assert_eq!(rules.contains(&Rule::Thirteen), shares(13).0 > 0);
            let (both, all) = shares(8);
            prop_assert_eq!(rules.contains(&Rule::Eight), both as f64 / all as f64 >= 0.7);
            let (both, all) = shares(5);
            // With one evaluation row all weights are equal.
            let least = 1.0 - ((base.len() as f64 - 20.0) / 30.0).min(1.0) * 0.2;
            prop_assert_eq!(rules.contains(&Rule::Weighted), both as f64 / all as f64 + 1e-9 >= least);
        }
    }
}
