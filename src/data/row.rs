//! The row: what is trained on and evaluated, with its content id and where it came from.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error as _;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::jsonl::Sorted;
use crate::hash::{Digest, Encoder};

/// The id of a row: the digest of its content (messages or text) alone, so
/// that a change of metadata or origin leaves it the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RowId(pub Digest);

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The standing instruction.
    System,
    /// The question.
    User,
    /// The answer.
    Assistant,
}

impl Role {
    /// The name in files and chat templates.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }

    /// The role of that name.
    pub fn of_name(name: &str) -> Option<Self> {
        [Role::System, Role::User, Role::Assistant]
            .into_iter()
            .find(|role| role.name() == name)
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn of a conversation.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Message {
            role,
            content: content.into(),
        }
    }
}

/// What a row teaches or asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Content {
    /// A conversation, never empty. When the last message is the assistant's
    /// it is the answer, and everything before it the prompt.
    Messages(Vec<Message>),
    /// Plain text.
    Text(String),
    /// Two answers to one prompt, of which the first is preferred.
    Preference {
        /// What is asked, never empty.
        prompt: Vec<Message>,
        /// The better answer.
        chosen: String,
        /// The worse answer.
        rejected: String,
    },
}

impl Content {
    /// The id of a row with this content.
    pub fn id(&self) -> RowId {
        let mut encoder = Encoder::new("retune.row.1");
        let turns = |encoder: &mut Encoder, name: &str, messages: &[Message]| {
            encoder.str(name).list(messages.len());
            for message in messages {
                encoder.str(message.role.name()).str(&message.content);
            }
        };
        match self {
            Content::Messages(messages) => turns(&mut encoder, "messages", messages),
            Content::Text(text) => {
                encoder.str("text").str(text);
            }
            Content::Preference {
                prompt,
                chosen,
                rejected,
            } => {
                turns(&mut encoder, "preference", prompt);
                encoder.str(chosen).str(rejected);
            }
        }
        RowId(encoder.digest_of())
    }
}

/// One example: content, what is known about it, and where it came from.
///
/// As JSON: `{"id","messages"|"text"|"prompt","chosen","rejected","meta","origin"}`,
/// in this order.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The digest of `content`.
    pub id: RowId,
    /// The conversation or the text.
    pub content: Content,
    /// What is known about the row (task, tool, severity, …), by name.
    pub meta: BTreeMap<String, Value>,
    /// `path:line` or `@finding id`; never an absolute path.
    pub origin: String,
}

impl Row {
    /// A row whose id is made from its content.
    pub fn new(content: Content, meta: BTreeMap<String, Value>, origin: impl Into<String>) -> Self {
        Row {
            id: content.id(),
            content,
            meta,
            origin: origin.into(),
        }
    }

    /// What comes before the answer; empty for a plain text row.
    pub fn prompt(&self) -> &[Message] {
        match &self.content {
            Content::Messages(messages) => match messages.split_last() {
                Some((last, prompt)) if last.role == Role::Assistant => prompt,
                _ => messages,
            },
            Content::Text(_) => &[],
            Content::Preference { prompt, .. } => prompt,
        }
    }

    /// The last message when it is the assistant's, of a preference the better
    /// answer; none for a plain text row.
    pub fn answer(&self) -> Option<&str> {
        match &self.content {
            Content::Messages(messages) => messages
                .last()
                .filter(|last| last.role == Role::Assistant)
                .map(|last| last.content.as_str()),
            Content::Text(_) => None,
            Content::Preference { chosen, .. } => Some(chosen),
        }
    }

    /// All text of the row, message by message, answers last.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let (messages, texts) = match &self.content {
            Content::Messages(messages) => (messages.as_slice(), [None, None]),
            Content::Text(text) => (&[][..], [Some(text.as_str()), None]),
            Content::Preference {
                prompt,
                chosen,
                rejected,
            } => (prompt.as_slice(), [Some(chosen.as_str()), Some(rejected)]),
        };
        let messages = messages.iter().map(|m| m.content.as_str());
        messages.chain(texts.into_iter().flatten())
    }

    /// A metadata value as text: strings as they are, other values as JSON,
    /// a missing one as none.
    pub fn meta_text(&self, field: &str) -> Option<String> {
        match self.meta.get(field)? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => serde_json::to_string(&Sorted(other)).ok(),
        }
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let meta: BTreeMap<&str, Sorted<'_>> = self
            .meta
            .iter()
            .map(|(name, value)| (name.as_str(), Sorted(value)))
            .collect();
        let mut row = serializer.serialize_struct("Row", 6)?;
        row.serialize_field("id", &self.id)?;
        match &self.content {
            Content::Messages(messages) => row.serialize_field("messages", messages)?,
            Content::Text(text) => row.serialize_field("text", text)?,
            Content::Preference {
                prompt,
                chosen,
                rejected,
            } => {
                row.serialize_field("prompt", prompt)?;
                row.serialize_field("chosen", chosen)?;
                row.serialize_field("rejected", rejected)?;
            }
        }
        row.serialize_field("meta", &meta)?;
        row.serialize_field("origin", &self.origin)?;
        row.end()
    }
}

/// A row as a file holds it, before its promises are checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRow {
    id: RowId,
    messages: Option<Vec<Message>>,
    text: Option<String>,
    prompt: Option<Vec<Message>>,
    chosen: Option<String>,
    rejected: Option<String>,
    meta: BTreeMap<String, Value>,
    origin: String,
}

impl RawRow {
    fn content(&mut self) -> Result<Content, &'static str> {
        let messages = self.messages.take();
        let preference = (self.prompt.take(), self.chosen.take(), self.rejected.take());
        match (messages, self.text.take(), preference) {
            (Some(messages), None, (None, None, None)) if messages.is_empty() => {
                Err("field `messages` is empty")
            }
            (Some(messages), None, (None, None, None)) => Ok(Content::Messages(messages)),
            (None, Some(text), (None, None, None)) => Ok(Content::Text(text)),
            (None, None, (Some(prompt), Some(chosen), Some(rejected))) if !prompt.is_empty() => {
                Ok(Content::Preference {
                    prompt,
                    chosen,
                    rejected,
                })
            }
            (None, None, (None, None, None)) => Err("missing field `messages` or `text`"),
            (None, None, _) => Err("a preference has a `prompt`, `chosen` and `rejected`"),
            _ => Err("a row has `messages` or `text`, not both, or a preference"),
        }
    }
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut raw = RawRow::deserialize(deserializer)?;
        let content = raw.content().map_err(D::Error::custom)?;
        let row = Row::new(content, raw.meta, raw.origin);
        if row.id != raw.id {
            return Err(D::Error::custom(format!(
                "field `id` is {} but the content gives {}: the row was edited after it was made",
                raw.id.0.short(),
                row.id.0.short()
            )));
        }
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat() -> Row {
        let messages = vec![
            Message::new(Role::User, "why?"),
            Message::new(Role::Assistant, "because"),
        ];
        Row::new(Content::Messages(messages), BTreeMap::new(), "a.jsonl:1")
    }

    #[test]
    fn the_id_is_of_the_content_alone_and_pinned() {
        let mut row = chat();
        let id = row.id;
        row.meta.insert("tool".into(), "semgrep".into());
        row.origin = "b.jsonl:9".into();
        assert_eq!(row.content.id(), id);
        assert_eq!(
            id.to_string(),
            "867379b9f217a11af7149e558edf703e491d6d315ce04f06b55c92280ba657e8"
        );
        let text = Content::Text("because".into());
        assert_ne!(text.id(), id);
    }

    #[test]
    fn the_last_assistant_message_is_the_answer() {
        let row = chat();
        assert_eq!(row.answer(), Some("because"));
        assert_eq!(row.prompt().len(), 1);
        let asked = Row::new(
            Content::Messages(vec![Message::new(Role::User, "why?")]),
            BTreeMap::new(),
            "a.jsonl:1",
        );
        assert_eq!((asked.answer(), asked.prompt().len()), (None, 1));
    }
}
