//! What training data must not hold: evaluation rows, from our own files or from decon's reference records.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use crate::data::{Blocks, Content, DataError, Line, Role, Row, each_line, each_row, parse_line};
use crate::files::{self, PathContext};

/// An evaluation row in the three parts that decon normalises all of them to.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// Which of the evaluation sets it is of, as an index into their names.
    pub set: usize,
    /// Its place: `path:line`, or what its record calls it.
    pub origin: String,
    /// Its place within its set, from 0.
    pub index: u64,
    /// The split its record names.
    pub split: Option<String>,
    /// What is asked.
    pub question: String,
    /// What is right, or one of the choices.
    pub answer: Option<String>,
    /// The text the question is about.
    pub passage: Option<String>,
}

/// The evaluation sets and their rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct References {
    /// The names of the sets, in the order in which they came.
    pub sets: Vec<String>,
    /// Their rows.
    pub rows: Vec<Reference>,
}

impl References {
    /// Adds a data set in the canonical row format. What comes before the
    /// answer is the question; of plain text all of it; system messages, which
    /// whole sets share, are left out.
    pub fn add_rows(&mut self, set: &str, path: &Path) -> Result<(), DataError> {
        let set = self.set(set);
        let rows = &mut self.rows;
        each_row(
            path,
            |index, row| Ok(of_row(set, index, &row)),
            |row| {
                rows.push(row);
                Ok(())
            },
        )?;
        Ok(())
    }

    /// Adds a file in the reference format of AI2's decon, gzipped or not: an
    /// object a line with `eval_key`, `eval_instance_index`, `split`,
    /// `question`, perhaps `answer` and `passage`. Each `eval_key` is a set.
    /// `label` stands for the file in errors.
    pub fn add_records(&mut self, label: &str, path: &Path) -> Result<(), DataError> {
        let label = Path::new(label);
        let blocks = Blocks::new(label, plain(path)?);
        let work = |line: Line<'_>| Ok((line.number, parse_line::<Record>(label, line)?));
        each_line(blocks, work, |(number, record)| {
            if record.question.trim().is_empty() {
                return Err(DataError::line(label, number, "field `question` is empty"));
            }
            let set = self.set(&record.eval_key);
            self.rows.push(Reference {
                set,
                origin: format!("{}:{number}", label.display()),
                index: record.eval_instance_index,
                split: Some(record.split),
                question: record.question,
                answer: record.answer.filter(|text| !text.trim().is_empty()),
                passage: record.passage.filter(|text| !text.trim().is_empty()),
            });
            Ok(())
        })?;
        Ok(())
    }

    fn set(&mut self, name: &str) -> usize {
        let known = self.sets.iter().position(|set| set == name);
        known.unwrap_or_else(|| {
            self.sets.push(name.to_owned());
            self.sets.len() - 1
        })
    }
}

/// A record of decon's reference format; what is not needed here is not kept.
#[derive(Deserialize)]
struct Record {
    eval_key: String,
    eval_instance_index: u64,
    split: String,
    question: String,
    #[serde(default)]
    answer: Option<String>,
    #[serde(default)]
    passage: Option<String>,
}

fn of_row(set: usize, index: u64, row: &Row) -> Reference {
    let question = match &row.content {
        Content::Text(text) => text.clone(),
        _ => {
            let asked = row.prompt().iter().filter(|m| m.role != Role::System);
            let texts: Vec<&str> = asked.map(|m| m.content.as_str()).collect();
            texts.join("\n")
        }
    };
    Reference {
        set,
        origin: row.origin.clone(),
        index,
        split: None,
        question,
        answer: row.answer().map(str::to_owned),
        passage: None,
    }
}

/// The bytes of a file, unpacked when they are gzip's.
fn plain(path: &Path) -> Result<Box<dyn Read>, DataError> {
    let mut file = files::open(path)?;
    let mut magic = [0; 2];
    let read = file.read(&mut magic).on("read", path)?;
    let file: File = files::open(path)?;
    Ok(match &magic[..read] {
        [0x1f, 0x8b] => Box::new(MultiGzDecoder::new(BufReader::new(file))),
        _ => Box::new(file),
    })
}
