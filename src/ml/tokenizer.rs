//! Byte-level BPE tokenizers with a chat template, as Hugging Face stores them.
//!
//! A folder holds `tokenizer.json` and `tokenizer_config.json`. The chat template
//! is the file `chat_template.jinja` beside them or else in the configuration,
//! there as one text or as a list of named ones, of which `default` is taken.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use serde::Serialize;
use serde_json::Value;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, DecoderWrapper, PostProcessorWrapper};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, TokenizerBuilder, TokenizerImpl};

use super::chat_template::ChatTemplate;
use super::config::{SpecialIds, pretty_json};
use crate::data::{Message, Role};
use crate::files::{self, FileError};

/// Ends a text.
const END_OF_TEXT: &str = "<|endoftext|>";
/// The special tokens that a chat template may ask for by name.
const SPECIAL: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];
/// Begins a message.
const START: &str = "<|im_start|>";
/// Ends a message.
const END: &str = "<|im_end|>";

/// Renders messages as ChatML: each between [`START`] role and [`END`].
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// A tokenizer cannot be trained, opened or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is not what it should be.
    #[error("{}: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The library failed.
    #[error("failed to {action}: {message}")]
    Library {
        /// What was attempted.
        action: &'static str,
        /// What the library says.
        message: String,
    },
    /// There is no chat template.
    #[error("the tokenizer has no chat template, which rows of messages need")]
    NoTemplate,
    /// The chat template cannot render these messages.
    #[error("failed to render the chat template: {0}")]
    Template(String),
    /// The prompt is not the beginning of the conversation, so that the answer cannot be told apart.
    #[error(
        "the chat template does not render the prompt as the beginning of the conversation, so that the answer's tokens cannot be told apart: where the prompt goes on with {prompt:?} the conversation has {conversation:?}"
    )]
    NotAPrefix {
        /// The prompt from where they part.
        prompt: String,
        /// The conversation from there.
        conversation: String,
    },
    /// There is no conversation to render.
    #[error("a conversation without messages cannot be rendered")]
    NoMessages,
}

/// Characters of a text that an error shows.
const SHOWN: usize = 40;

impl TokenizerError {
    fn parted(prompt: &str, conversation: &str) -> Self {
        let same = prompt.chars().zip(conversation.chars());
        let same = same.take_while(|(a, b)| a == b).count();
        let from = |text: &str| text.chars().skip(same).take(SHOWN).collect();
        TokenizerError::NotAPrefix {
            prompt: from(prompt),
            conversation: from(conversation),
        }
    }
}

/// A tokenizer that is ready to use.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    template: Option<ChatTemplate>,
    eos: Option<u32>,
    end_of_text: Option<u32>,
    strings: BTreeMap<&'static str, String>,
}

/// `tokenizer_config.json` as written.
#[derive(Serialize)]
struct WrittenConfig<'a> {
    added_tokens_decoder: BTreeMap<u32, WrittenToken<'a>>,
    bos_token: Option<&'a str>,
    chat_template: &'a str,
    clean_up_tokenization_spaces: bool,
    eos_token: &'a str,
    pad_token: &'a str,
    tokenizer_class: &'a str,
    unk_token: Option<&'a str>,
}

#[derive(Serialize)]
struct WrittenToken<'a> {
    content: &'a str,
    lstrip: bool,
    normalized: bool,
    rstrip: bool,
    single_word: bool,
    special: bool,
}

/// Trains a byte-level BPE tokenizer of `vocab_size` tokens on `texts` and
/// writes it, with a ChatML template, into `folder`. Pairs seen fewer than
/// `min_frequency` times are not merged, which may leave fewer tokens.
pub fn train(
    texts: &[String],
    vocab_size: usize,
    min_frequency: u64,
    folder: &Path,
) -> Result<(), TokenizerError> {
    let library = |action| {
        move |e: tokenizers::Error| TokenizerError::Library {
            action,
            message: e.to_string(),
        }
    };
    let special = [END_OF_TEXT, START, END];
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(vocab_size)
        .min_frequency(min_frequency)
        .show_progress(false)
        .special_tokens(special.map(|s| AddedToken::from(s, true)).to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<_>>())
        .build();
    let byte_level = ByteLevel::new(false, true, true);
    let mut tokenizer: TokenizerImpl<
        BPE,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    > = TokenizerBuilder::default()
        .with_model(BPE::default())
        .with_pre_tokenizer(Some(byte_level.into()))
        .with_decoder(Some(ByteLevel::default().into()))
        .build()
        .map_err(library("set up a tokenizer"))?;
    tokenizer
        .train(&mut trainer, texts.iter())
        .map_err(library("train a tokenizer"))?;
    let text = tokenizer
        .to_string(true)
        .map_err(library("write a tokenizer"))?;
    files::create_dir(folder)?;
    files::write(&folder.join("tokenizer.json"), text + "\n")?;
    let token = |content| WrittenToken {
        content,
        lstrip: false,
        normalized: false,
        rstrip: false,
        single_word: false,
        special: true,
    };
    let config = WrittenConfig {
        added_tokens_decoder: (0..).zip(special.map(token)).collect(),
        bos_token: None,
        chat_template: CHAT_TEMPLATE,
        clean_up_tokenization_spaces: false,
        eos_token: END,
        pad_token: END_OF_TEXT,
        tokenizer_class: "PreTrainedTokenizerFast",
        unk_token: None,
    };
    files::write(&folder.join("tokenizer_config.json"), pretty_json(&config))?;
    Ok(())
}

impl Tokenizer {
    /// Opens a tokenizer folder.
    pub fn open(folder: &Path) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer.json");
        let bytes = files::read(&path)?;
        let inner =
            tokenizers::Tokenizer::from_bytes(&bytes).map_err(|e| TokenizerError::Content {
                path,
                message: e.to_string(),
            })?;
        let path = folder.join("tokenizer_config.json");
        let text = files::read_text(&path)?;
        let config: Value = serde_json::from_str(&text).map_err(|e| TokenizerError::Content {
            path: path.clone(),
            message: e.to_string(),
        })?;
        let template = chat_template(folder, &path, &config)?;
        let names = SPECIAL;
        let strings: BTreeMap<&'static str, String> = names
            .into_iter()
            .filter_map(|name| Some((name, token_text(&config[name])?)))
            .collect();
        let id = |text: Option<&String>| inner.token_to_id(text?);
        Ok(Tokenizer {
            eos: id(strings.get("eos_token")),
            end_of_text: inner.token_to_id(END_OF_TEXT),
            template,
            strings,
            inner,
        })
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The greatest token id, plus one: what a model must have room for.
    pub fn id_bound(&self) -> usize {
        let ids = self.inner.get_vocab(true).into_values();
        ids.max().map_or(0, |id| id as usize + 1)
    }

    /// Ids that a model's configuration repeats.
    pub fn special_ids(&self) -> SpecialIds {
        let pad = self.strings.get("pad_token");
        SpecialIds {
            eos: self.eos,
            pad: pad.and_then(|text| self.inner.token_to_id(text)),
        }
    }

    /// Whether the token ends an answer.
    pub fn is_stop(&self, token: u32) -> bool {
        Some(token) == self.eos || Some(token) == self.end_of_text
    }

    /// Text → tokens; special tokens in the text are recognized, none is added.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, false);
        let encoding = encoding.map_err(|e| TokenizerError::Library {
            action: "encode a text",
            message: e.to_string(),
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// A text to go on from → tokens, with what the tokenizer puts in front of
    /// every text (its post-processor), but not twice, and nothing behind it.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let plain = self.encode(text)?;
        let whole = self.inner.encode_fast(text, true);
        let whole = whole.map_err(|e| TokenizerError::Library {
            action: "encode a text",
            message: e.to_string(),
        })?;
        let whole = whole.get_ids();
        let found = (0..=whole.len().saturating_sub(plain.len()))
            .find(|at| whole[*at..].starts_with(&plain));
        let front = &whole[..found.unwrap_or(0)];
        if plain.starts_with(front) {
            return Ok(plain);
        }
        Ok([front, &plain].concat())
    }

    /// The id of a token, if there is such a one.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The special token that the chat template puts right behind an answer,
    /// which a model that was trained on it ends with.
    pub fn turn_end(&self) -> Option<u32> {
        let messages = [
            Message::new(Role::User, "a"),
            Message::new(Role::Assistant, "b"),
        ];
        let (_, rest) = self.render_parts(&messages).ok()?;
        let end = rest.rsplit_once('b')?.1.trim_start();
        let first = *self.encode(end).ok()?.first()?;
        let added = self.inner.get_added_tokens_decoder();
        added
            .get(&first)
            .filter(|token| token.special)
            .map(|_| first)
    }

    /// A whole text → tokens, with the token that ends a text.
    pub fn encode_document(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut tokens = self.encode(text)?;
        tokens.extend(self.end_of_text.or(self.eos));
        Ok(tokens)
    }

    /// Tokens → text, special tokens left out.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TokenizerError> {
        let text = self.inner.decode(tokens, true);
        text.map_err(|e| TokenizerError::Library {
            action: "decode tokens",
            message: e.to_string(),
        })
    }

    /// Makes templates that ask for the date believe it is this one; see
    /// [`TODAY`](super::chat_template::TODAY) for the one they get otherwise.
    pub fn set_today(&mut self, today: Date) {
        if let Some(template) = &mut self.template {
            template.set_today(today);
        }
    }

    /// Whether there is a chat template.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// Renders messages by the chat template, as Hugging Face does.
    pub fn render(&self, messages: &[Message], prompt: bool) -> Result<String, TokenizerError> {
        let template = self.template.as_ref().ok_or(TokenizerError::NoTemplate)?;
        let tokens = self.strings.iter().map(|(name, text)| (*name, &**text));
        let rendered = template.render(messages, prompt, tokens);
        rendered.map_err(TokenizerError::Template)
    }

    /// Renders a conversation whose last message is the answer: the prompt as
    /// it is given for generation, and the rest.
    pub fn render_parts(&self, messages: &[Message]) -> Result<(String, String), TokenizerError> {
        let (_, before) = messages.split_last().ok_or(TokenizerError::NoMessages)?;
        let prompt = self.render(before, true)?;
        let whole = self.render(messages, false)?;
        match whole.strip_prefix(&prompt) {
            Some(rest) => Ok((prompt, rest.to_owned())),
            None => Err(TokenizerError::parted(&prompt, &whole)),
        }
    }
}

/// The text of tokens that come one by one, in whole characters.
///
/// A token may hold a part of a character, and its text may depend on the
/// tokens before it; what is given out is never taken back.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    /// Of `tokens`: from here on they are decoded, from `done` on they are new.
    from: usize,
    done: usize,
    given: String,
}

impl<'a> TextStream<'a> {
    /// A stream at its beginning.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        TextStream {
            tokenizer,
            tokens: Vec::new(),
            from: 0,
            done: 0,
            given: String::new(),
        }
    }

    /// Adds a token; true when the text grew.
    pub fn push(&mut self, token: u32) -> Result<bool, TokenizerError> {
        self.tokens.push(token);
        let before = self.tokenizer.decode(&self.tokens[self.from..self.done])?;
        let now = self.tokenizer.decode(&self.tokens[self.from..])?;
        // A replacement character at the end may be the beginning of a whole one.
        let new = match now.strip_prefix(&before) {
            Some(new) if !new.is_empty() && !new.ends_with('\u{FFFD}') => new,
            _ => return Ok(false),
        };
        self.given.push_str(new);
        self.from = self.done;
        self.done = self.tokens.len();
        Ok(true)
    }

    /// The text so far.
    pub fn text(&self) -> &str {
        &self.given
    }

    /// The tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The text of all tokens, incomplete characters as they decode.
    pub fn whole(&self) -> Result<String, TokenizerError> {
        self.tokenizer.decode(&self.tokens)
    }
}

/// A special token, written as a string or as an object.
fn token_text(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value["content"].as_str());
    text.map(str::to_owned)
}

/// The chat template of a folder: a file of its own comes before the configuration.
fn chat_template(
    folder: &Path,
    config_path: &Path,
    config: &Value,
) -> Result<Option<ChatTemplate>, TokenizerError> {
    let beside = folder.join("chat_template.jinja");
    let (path, text) = if beside.exists() {
        let text = files::read_text(&beside)?;
        (beside, text)
    } else {
        let named = |name: &str| {
            let all = config["chat_template"].as_array()?;
            let found = all.iter().find(|one| one["name"] == name)?;
            found["template"].as_str()
        };
        let text = config["chat_template"]
            .as_str()
            .or_else(|| named("default"));
        let Some(text) = text else {
            return Ok(None);
        };
        (config_path.to_owned(), text.to_owned())
    };
    let template = ChatTemplate::new(&text).map_err(|message| TokenizerError::Content {
        path,
        message: format!("chat template: {message}"),
    })?;
    Ok(Some(template))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A small tokenizer, and the folder that holds it.
    pub fn small() -> (tempfile::TempDir, Tokenizer) {
        let folder = tempfile::tempdir().unwrap();
        train(&texts(), 320, 2, folder.path()).unwrap();
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        (folder, tokenizer)
    }

    fn texts() -> Vec<String> {
        (0..40)
            .map(|i| format!("The query of user {i} is built from a string: SELECT {i}.\n"))
            .collect()
    }

    #[test]
    fn training_gives_the_same_bytes_every_time() {
        let digest = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let folder = tempfile::tempdir().unwrap();
            pool.unwrap()
                .install(|| train(&texts(), 320, 2, folder.path()).unwrap());
            ["tokenizer.json", "tokenizer_config.json"]
                .map(|name| std::fs::read(folder.path().join(name)).unwrap())
        };
        let first = digest(1);
        for threads in [1, 2, 3] {
            assert_eq!(digest(threads), first, "{threads} threads");
        }
    }

    #[test]
    fn any_text_survives_encoding() {
        let (_folder, tokenizer) = small();
        for text in ["SELECT 1", " leading", "ünïcödé 日本 🦀\n\ttab", ""] {
            let tokens = tokenizer.encode(text).unwrap();
            assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
        }
        assert!(tokenizer.vocab_size() <= 320);
        assert_eq!(tokenizer.id_bound(), tokenizer.vocab_size());
    }

    #[test]
    fn a_conversation_is_rendered_as_chatml() {
        let (_folder, tokenizer) = small();
        let messages = [
            Message::new(Role::System, "be brief"),
            Message::new(Role::User, "why?"),
            Message::new(Role::Assistant, "because"),
        ];
        let (prompt, rest) = tokenizer.render_parts(&messages).unwrap();
        assert_eq!(
            prompt,
            "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n"
        );
        assert_eq!(rest, "because<|im_end|>\n");
        let ids = tokenizer.encode(&rest).unwrap();
        assert!(ids.iter().any(|id| tokenizer.is_stop(*id)));
        assert!(tokenizer.encode_document("x").unwrap().len() >= 2);
    }

    #[test]
    fn a_stream_gives_whole_characters_and_in_the_end_all() {
        let (_folder, tokenizer) = small();
        for text in ["SELECT 1 é", "日本 🦀🦀 x", " leading", "ü"] {
            let mut stream = TextStream::new(&tokenizer);
            let mut grown = 0;
            for token in tokenizer.encode(text).unwrap() {
                grown += usize::from(stream.push(token).unwrap());
                assert!(text.starts_with(stream.text()), "{:?}", stream.text());
            }
            assert_eq!(stream.text(), text);
            assert!(grown <= text.chars().count());
            assert_eq!(stream.whole().unwrap(), text);
        }
        let mut cut = tokenizer.encode("x🦀").unwrap();
        cut.pop();
        let mut stream = TextStream::new(&tokenizer);
        for token in cut {
            stream.push(token).unwrap();
        }
        assert_eq!(stream.text(), "x", "half a crab is held back");
        assert!(stream.whole().unwrap().starts_with("x\u{FFFD}"));
    }

    /// The small tokenizer with another configuration.
    fn with(
        change: impl FnOnce(&mut Value),
        beside: Option<&str>,
    ) -> Result<Tokenizer, TokenizerError> {
        let (folder, _) = small();
        let path = folder.path().join("tokenizer_config.json");
        let mut config: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(path, config.to_string()).unwrap();
        if let Some(text) = beside {
            std::fs::write(folder.path().join("chat_template.jinja"), text).unwrap();
        }
        Tokenizer::open(folder.path())
    }

    #[test]
    fn the_template_is_the_file_or_the_default_of_a_list() {
        let user = [Message::new(Role::User, "u")];
        let list = serde_json::json!([
            {"name": "tool_use", "template": "tools"},
            {"name": "default", "template": "{{ messages[0].content }} listed"},
        ]);
        let tokenizer = with(|c| c["chat_template"] = list.clone(), None).unwrap();
        assert_eq!(tokenizer.render(&user, true).unwrap(), "u listed");
        let tokenizer = with(|c| c["chat_template"] = list, Some("file")).unwrap();
        assert_eq!(tokenizer.render(&user, true).unwrap(), "file");
        let tokenizer = with(|c| c["chat_template"] = Value::Null, None).unwrap();
        assert!(!tokenizer.has_template());
        assert!(matches!(
            tokenizer.render(&user, true),
            Err(TokenizerError::NoTemplate)
        ));
        let error = with(|_| {}, Some("{% for %}")).err().unwrap().to_string();
        assert!(
            error.contains("chat_template.jinja: chat template:"),
            "{error}"
        );
    }

    #[test]
    fn a_prompt_that_is_no_beginning_is_told_with_where_they_part() {
        let thinking = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant><think>{% endif %}";
        let tokenizer = with(|_| {}, Some(thinking)).unwrap();
        let messages = [
            Message::new(Role::User, "u"),
            Message::new(Role::Assistant, "a"),
        ];
        let error = tokenizer.render_parts(&messages).unwrap_err().to_string();
        assert!(
            error.ends_with("goes on with \"<think>\" the conversation has \"a\""),
            "{error}"
        );
        let none = tokenizer.render_parts(&[]).unwrap_err();
        assert!(matches!(none, TokenizerError::NoMessages));
    }

    /// Qwen 3's way: thoughts of earlier turns are dropped, the last ones kept.
    #[test]
    fn earlier_turns_may_be_reformatted() {
        let template = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and not loop.last and '</think>' in m.content %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
        let tokenizer = with(|_| {}, Some(template)).unwrap();
        let messages = [
            Message::new(Role::User, "u"),
            Message::new(Role::Assistant, "<think>t</think>a"),
            Message::new(Role::User, "v"),
            Message::new(Role::Assistant, "<think>s</think>b"),
        ];
        let (prompt, rest) = tokenizer.render_parts(&messages).unwrap();
        assert_eq!(
            prompt,
            "<user>u<|im_end|>\n<assistant>a<|im_end|>\n<user>v<|im_end|>\n<assistant>"
        );
        assert_eq!(rest, "<think>s</think>b<|im_end|>\n");
        assert_eq!(tokenizer.turn_end(), tokenizer.token_id(END));
    }

    #[test]
    fn a_prompt_begins_once_with_what_every_text_begins_with() {
        let (folder, plain) = small();
        assert_eq!(
            plain.encode_prompt("ab").unwrap(),
            plain.encode("ab").unwrap()
        );
        let path = folder.path().join("tokenizer.json");
        let mut file: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        file["post_processor"] = serde_json::json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": START, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": END, "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                START: {"id": START, "ids": [1], "tokens": [START]},
                END: {"id": END, "ids": [2], "tokens": [END]},
            },
        });
        std::fs::write(&path, file.to_string()).unwrap();
        let tokenizer = Tokenizer::open(folder.path()).unwrap();
        let begun = tokenizer.encode_prompt("ab").unwrap();
        assert_eq!(begun, [&[1][..], &plain.encode("ab").unwrap()].concat());
        let again = tokenizer.encode_prompt("<|im_start|>ab").unwrap();
        assert_eq!(again, begun, "not twice");
    }
}
