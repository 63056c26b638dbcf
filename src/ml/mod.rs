//! Training and running open decoders on the CPU, with the same bits everywhere.
//!
//! From the bottom up: [`rng`] and [`kernels`] fix every bit; [`config`],
//! [`family`], [`tensors`] and [`layout`] read and write Hugging Face's files,
//! [`load`] weights from them, as f32 or as the bf16 of a [`matrix`];
//! [`model`] is the decoder with its hand-written backward pass, [`block`] a block
//! of it, [`linear`] its linear layers, [`lora`] the adapters on them and [`dora`]
//! their magnitudes; [`tokenizer`], with a [`chat_template`], and [`batch`] turn
//! rows into tokens; [`train`] is the loop over a [`train::Core`], which is the
//! decoder here or candle's automatic differentiation, [`memory`] what it will hold,
//! [`optim`] its optimizer ([`eightbit`] with small moments), [`stopping`] when it
//! ends early, [`blame`] where it stopped being finite, [`checkpoint`] what it goes on
//! from, [`saved`] what it leaves on its way, [`summary`] what it tells and
//! [`tensorboard`] the same for TensorBoard; [`target`] says which layers an adapter
//! sits on, [`adapter`] and [`peft`] store PEFT folders, [`mlx`], [`llama_cpp`] and
//! [`gguf`] other programs' formats, [`merge`] writes a base with an adapter in it
//! ([`weights`] tensor by tensor, [`origin`] of what) and [`generate`] answers
//! prompts: `decode` runs the model token by token, [`sampling`] chooses the next one,
//! and [`generation_config`] is what a model's makers advise. The room knows nothing
//! of the engine.

pub mod adapter;
pub mod batch;
pub mod blame;
pub mod block;
#[cfg(feature = "candle")]
pub mod candle;
pub mod chat_template;
pub mod checkpoint;
pub mod config;
mod decode;
pub mod dora;
pub mod eightbit;
pub mod family;
pub mod generate;
pub mod generation_config;
pub mod gguf;
pub mod kernels;
pub mod layout;
pub mod linear;
pub mod llama_cpp;
pub mod load;
pub mod lora;
pub mod matrix;
pub mod memory;
pub mod merge;
pub mod mlx;
pub mod model;
pub mod optim;
pub mod origin;
pub mod peft;
pub mod rng;
pub mod sampling;
pub mod saved;
pub mod stopping;
pub mod summary;
pub mod target;
pub mod tensorboard;
pub mod tensors;
pub mod tokenizer;
pub mod train;
pub mod weights;

/// Lets the allocator keep what is freed for the next step, as every step needs
/// the same buffers again: else the kernel takes and clears their pages each time.
fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "the allocator's settings have no other door")]
    // SAFETY: mallopt only sets numbers; values it does not know it refuses.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
    }
}

/// Runs `work` on a pool of `threads` threads. How many they are never shows in a result.
pub fn with_threads<R: Send>(
    threads: usize,
    work: impl FnOnce() -> R + Send,
) -> Result<R, rayon::ThreadPoolBuildError> {
    keep_freed_memory();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1));
    Ok(pool.build()?.install(work))
}

#[cfg(test)]
mod adapter_tests;
#[cfg(test)]
mod tests;
