//! Training and running open decoders on the CPU, with the same bits everywhere.
//!
//! From the bottom up: [`rng`] and [`kernels`] fix every bit; [`config`],
//! [`family`], [`tensors`] and [`layout`] read and write Hugging Face's files;
//! [`model`] is the decoder with its hand-written backward pass, [`linear`] its
//! linear layers and [`lora`] the adapters on them; [`tokenizer`], with a [`chat_template`], and [`batch`] turn rows into tokens;
//! [`train`] is the loop over a [`train::Core`], which is the decoder here or
//! candle's automatic differentiation, and [`checkpoint`] what it goes on
//! from; [`target`] says which layers an adapter sits on, [`adapter`] and
//! [`peft`] store PEFT folders, [`mlx`], [`llama_cpp`] and [`gguf`] other
//! programs' formats, [`merge`] writes a base with an adapter in it
//! ([`weights`] tensor by tensor, [`origin`] of what) and
//! [`generate`] answers prompts: `decode` runs the model token by token,
//! [`sampling`] chooses the next one, and [`generation_config`] is what a model's
//! makers advise. The room knows nothing of the engine.

pub mod adapter;
pub mod batch;
#[cfg(feature = "candle")]
pub mod candle;
pub mod chat_template;
pub mod checkpoint;
pub mod config;
mod decode;
pub mod family;
pub mod generate;
pub mod generation_config;
pub mod gguf;
pub mod kernels;
pub mod layout;
mod linear;
pub mod llama_cpp;
pub mod lora;
pub mod merge;
pub mod mlx;
pub mod model;
pub mod optim;
pub mod origin;
pub mod peft;
pub mod rng;
pub mod sampling;
pub mod target;
pub mod tensors;
pub mod tokenizer;
pub mod train;
pub mod weights;

/// Runs `work` on a pool of `threads` threads. How many they are never shows in a result.
pub fn with_threads<R: Send>(
    threads: usize,
    work: impl FnOnce() -> R + Send,
) -> Result<R, rayon::ThreadPoolBuildError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1));
    Ok(pool.build()?.install(work))
}

#[cfg(test)]
mod adapter_tests;
#[cfg(test)]
mod tests;
