//! Byte-level BPE tokenizers with a chat template, as Hugging Face stores them.
//!
//! A folder holds `tokenizer.json` and `tokenizer_config.json`; the template
//! may also lie beside them in `chat_template.jinja`.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use serde::Serialize;
use serde_json::Value;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, DecoderWrapper, PostProcessorWrapper};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, TokenizerBuilder, TokenizerImpl};

use super::config::{SpecialIds, pretty_json};
use crate::data::Message;
use crate::files::{self, FileError};

/// Ends a text.
const END_OF_TEXT: &str = "<|endoftext|>";
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
        "the chat template does not render the prompt as the beginning of the conversation, so that the answer's tokens cannot be told apart"
    )]
    NotAPrefix,
}

/// A tokenizer that is ready to use.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    templates: Environment<'static>,
    has_template: bool,
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
        let beside = folder.join("chat_template.jinja");
        let template = match config["chat_template"].as_str() {
            Some(template) => Some(template.to_owned()),
            None if beside.exists() => Some(files::read_text(&beside)?),
            None => None,
        };
        let names = ["bos_token", "eos_token", "pad_token", "unk_token"];
        let strings: BTreeMap<&'static str, String> = names
            .into_iter()
            .filter_map(|name| Some((name, token_text(&config[name])?)))
            .collect();
        let id = |text: Option<&String>| inner.token_to_id(text?);
        Ok(Tokenizer {
            eos: id(strings.get("eos_token")),
            end_of_text: inner.token_to_id(END_OF_TEXT),
            has_template: template.is_some(),
            templates: environment(template, &path)?,
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

    /// Renders messages by the chat template, as Hugging Face does.
    pub fn render(&self, messages: &[Message], prompt: bool) -> Result<String, TokenizerError> {
        #[derive(Serialize)]
        struct Variables<'a> {
            messages: &'a [Message],
            add_generation_prompt: bool,
            bos_token: Option<&'a String>,
            eos_token: Option<&'a String>,
            pad_token: Option<&'a String>,
            unk_token: Option<&'a String>,
        }
        if !self.has_template {
            return Err(TokenizerError::NoTemplate);
        }
        let variables = Variables {
            messages,
            add_generation_prompt: prompt,
            bos_token: self.strings.get("bos_token"),
            eos_token: self.strings.get("eos_token"),
            pad_token: self.strings.get("pad_token"),
            unk_token: self.strings.get("unk_token"),
        };
        let template = self
            .templates
            .get_template("chat")
            .map_err(template_error)?;
        template.render(Serde(variables)).map_err(template_error)
    }

    /// Renders a conversation whose last message is the answer: the prompt as
    /// it is given for generation, and the rest.
    pub fn render_parts(&self, messages: &[Message]) -> Result<(String, String), TokenizerError> {
        let (_, before) = messages.split_last().ok_or(TokenizerError::NotAPrefix)?;
        let prompt = self.render(before, true)?;
        let whole = self.render(messages, false)?;
        let rest = whole.strip_prefix(&prompt);
        let rest = rest.ok_or(TokenizerError::NotAPrefix)?.to_owned();
        Ok((prompt, rest))
    }
}

/// A special token, written as a string or as an object.
fn token_text(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value["content"].as_str());
    text.map(str::to_owned)
}

fn template_error(error: minijinja::Error) -> TokenizerError {
    let detail = error.detail().map(str::to_owned);
    TokenizerError::Template(detail.unwrap_or_else(|| error.kind().to_string()))
}

/// The template engine, set as Hugging Face sets its own.
fn environment(
    template: Option<String>,
    path: &Path,
) -> Result<Environment<'static>, TokenizerError> {
    let mut environment = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    environment.set_syntax(syntax.build().expect("the usual delimiters are valid"));
    environment.add_function("raise_exception", |text: String| {
        Err::<String, _>(minijinja::Error::new(
            minijinja::ErrorKind::InvalidOperation,
            text,
        ))
    });
    if let Some(template) = template {
        let added = environment.add_template_owned("chat", template);
        added.map_err(|e| TokenizerError::Content {
            path: path.to_owned(),
            message: format!("chat_template: {e}"),
        })?;
    }
    Ok(environment)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::data::Role;

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
}
