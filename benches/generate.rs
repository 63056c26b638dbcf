//! Answers of a fixed length from random models, here and by candle-transformers; `generate.py` runs it beside transformers.
//!
//! ```text
//! generate make 50m FOLDER            a random Llama with a tokenizer
//! generate retune FOLDER BATCH THREADS PROMPT NEW
//! generate candle FOLDER BATCH THREADS PROMPT NEW
//! ```
//! Each answer is greedy, in f32. For each line on standard input (after a
//! first, uncounted answer) one more batch is answered and its seconds printed.

use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama;
use retune::ml::config::{Family, Sizes, SpecialIds};
use retune::ml::generate::{Generator, Options, Prompt};
use retune::ml::kernels::Isa;
use retune::ml::model::Decoder;
use retune::ml::tokenizer;

type Failed = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<usize>();
    match arguments[..] {
        ["make", shape, folder] => make(shape, Path::new(folder)),
        [engine, folder, batch, threads, prompt, new] => {
            let work = Work {
                folder: Path::new(folder),
                batch: number(batch)?,
                prompt: number(prompt)?,
                new: number(new)?,
            };
            let threads = number(threads)?;
            match engine {
                "retune" => retune::ml::with_threads(threads, || work.retune())?,
                "candle" => {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                    pool.build_global()?;
                    work.candle()
                }
                _ => Err(format!("there is no engine '{engine}'").into()),
            }
        }
        // `cargo bench` and `cargo test --benches` call it without a job.
        _ => Ok(()),
    }
}

/// A random model of about 50 or 300 million weights.
fn make(shape: &str, folder: &Path) -> Result<(), Failed> {
    let (vocab_size, hidden_size, intermediate_size, layers, heads) = match shape {
        "50m" => (16_384, 512, 2048, 10, 8),
        "300m" => (32_000, 1024, 4096, 18, 16),
        other => return Err(format!("there is no shape '{other}'").into()),
    };
    let mut config = Family::Llama.config(Sizes {
        vocab_size,
        hidden_size,
        intermediate_size,
        layers,
        heads,
        kv_heads: heads / 2,
        head_dim: 64,
        max_positions: 2048,
    });
    config.tied = false;
    let texts: Vec<String> = (0..50)
        .map(|i| format!("text {i} of a benchmark"))
        .collect();
    tokenizer::train(&texts, 300, 2, folder)?;
    let decoder = Decoder::init(config, 1, 0.02, Isa::detect());
    decoder.weights.write(&folder.join("model.safetensors"))?;
    decoder.config.write(folder, SpecialIds::default())?;
    Ok(())
}

struct Work<'a> {
    folder: &'a Path,
    batch: usize,
    prompt: usize,
    new: usize,
}

impl Work<'_> {
    /// The tokens of a prompt, the same for every engine.
    fn tokens(&self, sequence: usize) -> Vec<u32> {
        let token = |i: usize| 300 + (i * 7919 + sequence * 104_729) as u32 % 15_000;
        (0..self.prompt).map(token).collect()
    }

    /// Answers once, then once for each line.
    fn measure(&self, mut answer: impl FnMut() -> Result<usize, Failed>) -> Result<(), Failed> {
        answer()?;
        println!("ready");
        for line in std::io::stdin().lock().lines() {
            line?;
            let start = Instant::now();
            let tokens = answer()?;
            println!("{} {tokens}", start.elapsed().as_secs_f64());
        }
        Ok(())
    }

    fn retune(&self) -> Result<(), Failed> {
        let generator = Generator::open(self.folder, self.folder, None)?;
        let prompts: Vec<Prompt> = (0..self.batch)
            .map(|sequence| Prompt {
                text: sequence.to_string(),
                tokens: self.tokens(sequence),
            })
            .collect();
        let options = Options {
            max_new_tokens: self.new,
            ..Options::default()
        };
        self.measure(|| {
            let answers = generator.answers(&prompts, 1, &options)?;
            Ok(answers.iter().map(|answer| answer.token_ids.len()).sum())
        })
    }

    fn candle(&self) -> Result<(), Failed> {
        let device = Device::Cpu;
        let text = std::fs::read_to_string(self.folder.join("config.json"))?;
        let config: llama::LlamaConfig = serde_json::from_str(&text)?;
        let config = config.into_config(false);
        let bytes = std::fs::read(self.folder.join("model.safetensors"))?;
        let weights = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &device)?;
        let model = llama::Llama::load(weights, &config)?;
        let prompt: Vec<u32> = (0..self.batch).flat_map(|i| self.tokens(i)).collect();
        let prompt = Tensor::from_vec(prompt, (self.batch, self.prompt), &device)?;
        self.measure(|| {
            let mut cache = llama::Cache::new(true, DType::F32, &config, &device)?;
            let (mut input, mut position) = (prompt.clone(), 0);
            for _ in 0..self.new {
                let logits = model.forward(&input, position, &mut cache)?;
                position += input.dim(1)?;
                input = logits.argmax(D::Minus1)?.reshape((self.batch, 1))?;
            }
            input.to_vec2::<u32>()?;
            Ok(self.batch * self.new)
        })
    }
}
