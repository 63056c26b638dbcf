//! Times LoRA training on random weights: seconds a step, GFLOP/s, their share of the peak, memory.
//!
//! ```text
//! cargo bench --bench train -- make FOLDER --size 50m [--dtype f32|bf16]
//! cargo bench --bench train -- run FOLDER [--threads 1] [--steps 5] [--isa AVX2]
//! ```
//!
//! `make` writes a model folder, `run` trains an adapter of rank 16 on all linear
//! layers with 4 sequences of 256 random tokens a step, after two steps that do
//! not count, and prints one line of JSON. `benches/train.py` runs it beside
//! torch and PEFT.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use retune::ml::batch::{Batch, Sequence};
use retune::ml::config::{Family, ModelConfig, Sizes, SpecialIds};
use retune::ml::kernels::Isa;
use retune::ml::layout::Layout;
use retune::ml::lora::{ALL_LINEAR, Lora, LoraConfig};
use retune::ml::matrix::Dtype;
use retune::ml::model::{Decoder, Dropout, Gradients};
use retune::ml::optim::{AdamW, Optimizer};
use retune::ml::rng::Stream;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Sequences of a step and their length.
const BATCH: (usize, usize) = (4, 256);
const RANK: usize = 16;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let option = |name: &str, default: &str| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|i| args.get(i + 1))
            .map_or(default.to_owned(), String::clone)
    };
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["make", folder, ..] => make(
            Path::new(folder),
            &option("--size", "5m"),
            dtype(&option("--dtype", "f32"))?,
        ),
        ["run", folder, ..] => {
            let threads = option("--threads", "1").parse()?;
            let steps = option("--steps", "5").parse()?;
            let isa = isa(&option("--isa", ""))?;
            let dtype = dtype(&option("--dtype", "f32"))?;
            let folder = Path::new(folder);
            retune::ml::with_threads(threads, || run(folder, isa, dtype, threads, steps))?
        }
        // `cargo test --benches` and the like call without arguments.
        _ => {
            println!("make FOLDER --size SIZE | run FOLDER; see the head of benches/train.rs");
            Ok(())
        }
    }
}

/// The one of that name, or the fastest.
fn isa(name: &str) -> Result<Isa> {
    let mut all = Isa::available().into_iter();
    match name {
        "" => Ok(Isa::detect()),
        name => Ok(all
            .find(|isa| isa.to_string() == name)
            .ok_or("no such instruction set")?),
    }
}

fn dtype(name: &str) -> Result<Dtype> {
    match name {
        "f32" => Ok(Dtype::F32),
        "bf16" => Ok(Dtype::Bf16),
        _ => Err("dtype is f32 or bf16".into()),
    }
}

/// Shapes of OLMo-2; the last is that of OLMo-2 1B.
fn config(size: &str) -> Result<ModelConfig> {
    let (hidden_size, layers, intermediate_size, heads, vocab_size) = match size {
        "5m" => (256, 4, 704, 4, 4096),
        "50m" => (512, 10, 1408, 8, 16384),
        "300m" => (1024, 16, 2816, 16, 32768),
        "1b" => (2048, 16, 8192, 16, 100_352),
        _ => return Err("the sizes are 5m, 50m, 300m and 1b".into()),
    };
    Ok(Family::Olmo2.config(Sizes {
        vocab_size,
        hidden_size,
        intermediate_size,
        layers,
        heads,
        kv_heads: heads,
        head_dim: hidden_size / heads,
        max_positions: 4096,
    }))
}

/// Writes a model of random weights: norms one, matrices uniform with deviation 0.02.
fn make(folder: &Path, size: &str, dtype: Dtype) -> Result<()> {
    let mut config = config(size)?;
    config.tied = false;
    fs::create_dir_all(folder)?;
    config.write(folder, SpecialIds::default())?;
    let (_, tensors) = Layout::new(&config);
    let (name, width) = match dtype {
        Dtype::F32 => ("F32", 4),
        Dtype::Bf16 => ("BF16", 2),
    };
    let mut header = BTreeMap::new();
    let mut at = 0;
    for tensor in tensors.iter() {
        let end = at + width * tensor.data.len();
        let entry = json!({"dtype": name, "shape": tensor.shape, "data_offsets": [at, end]});
        header.insert(tensor.name.as_str(), entry);
        at = end;
    }
    let mut header = serde_json::to_string(&header)?;
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    let mut out = BufWriter::new(File::create(folder.join("model.safetensors"))?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    let mut state = 1u64;
    for tensor in tensors.iter() {
        for _ in 0..tensor.data.len() {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let uniform = (state >> 40) as f32 / (1 << 24) as f32 - 0.5;
            let value = if tensor.shape.len() == 1 {
                1.0
            } else {
                0.069 * uniform
            };
            match width {
                4 => out.write_all(&value.to_le_bytes())?,
                _ => out.write_all(&half::bf16::from_f32(value).to_le_bytes())?,
            }
        }
    }
    Ok(out.flush()?)
}

fn run(folder: &Path, isa: Isa, dtype: Dtype, threads: usize, steps: usize) -> Result<()> {
    let decoder = Decoder::open_as(folder, isa, dtype)?;
    let config = &decoder.config;
    let adapter = LoraConfig {
        dora: false,
        rank: RANK,
        alpha: 32.0,
        rank_stabilized: false,
        dropout: 0.0,
        target_modules: vec![ALL_LINEAR.to_owned()],
        layers: None,
    };
    let mut lora = Lora::init(adapter.resolve(config)?, config, 0);
    let settings = AdamW {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.0,
    };
    let mut optimizer = Optimizer::new(settings, &lora.tensors, isa);
    let mut gradients = lora.tensors.zeros_like();
    let batches: Vec<Batch> = (0..4).map(|n| batch(n, config.vocab_size)).collect();
    let (mut wall, mut cpu, mut loss) = (Vec::new(), Vec::new(), f64::NAN);
    for step in 0..steps + 2 {
        let batch = &batches[step % batches.len()];
        let (start, before) = (Instant::now(), cpu_seconds());
        gradients.clear();
        let dropout = Dropout {
            neftune_alpha: 0.0,
            seed: 0,
            step: step as u64,
        };
        let into = Gradients {
            weights: None,
            lora: Some(&mut gradients),
        };
        let scale = 1.0 / batch.counted() as f32;
        loss = decoder
            .gradients(Some(&lora), batch, Some(dropout), scale, into)
            .mean();
        optimizer.step(&mut lora.tensors, &gradients, 1e-4, 1.0);
        if step >= 2 {
            wall.push(start.elapsed().as_secs_f64());
            cpu.push(cpu_seconds() - before);
        }
    }
    let operations = operations(&decoder, lora.tensors.elements());
    let (wall, cpu, peak) = (median(&mut wall), median(&mut cpu), peak(isa, dtype));
    let line = json!({
        "program": "retune", "folder": folder, "isa": isa.to_string(), "dtype": dtype, "threads": threads,
        "wall_s": round(wall), "cpu_s": round(cpu),
        "tokens_per_s": round((BATCH.0 * BATCH.1) as f64 / wall),
        "gflops_per_cpu_s": round(operations / cpu / 1e9),
        "peak_gflops": round(peak / 1e9), "share_of_peak": round(operations / cpu / peak),
        "rss_mb": peak_memory()?, "loss": loss,
    });
    println!("{line}");
    Ok(())
}

fn batch(number: u64, vocabulary: usize) -> Batch {
    let stream = Stream::new(number, "bench", 0, "");
    let token = |i: usize| (stream.uniform64(i as u64) * vocabulary as f64) as u32;
    let sequences: Vec<Sequence> = (0..BATCH.0)
        .map(|row| {
            let at = |i| token(row * (BATCH.1 + 1) + i);
            Sequence {
                tokens: (0..BATCH.1).map(at).collect(),
                targets: (1..=BATCH.1).map(at).collect(),
            }
        })
        .collect();
    Batch::new(&sequences)
}

/// Floating-point operations a step cannot do without: linear layers and head
/// forward and to their inputs' gradients, the adapter with its gradients, and
/// the causal half of attention, twice as much backward as forward.
fn operations(decoder: &Decoder, adapter: usize) -> f64 {
    let config = &decoder.config;
    let attention = 6 * config.layers * config.heads * config.head_dim * BATCH.1;
    let per_token = 4 * decoder.linear_weights() + 6 * adapter + attention;
    (BATCH.0 * BATCH.1 * per_token) as f64
}

/// Operations a second that one core's multiply-add units can do, by a loop in registers.
fn peak(isa: Isa, dtype: Dtype) -> f64 {
    const ROUNDS: usize = 20_000_000;
    let start = cpu_seconds();
    let rounds = ROUNDS as f64;
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "the instruction set is one this processor has")]
    let operations = match (isa.to_string().as_str(), dtype) {
        ("AVX-512 BF16", Dtype::Bf16) => unsafe { x86::bf16(ROUNDS) as f64 * rounds },
        ("AVX-512" | "AVX-512 BF16", _) => unsafe { x86::avx512(ROUNDS) as f64 * rounds },
        ("AVX2", _) => unsafe { x86::avx2(ROUNDS) as f64 * rounds },
        _ => f64::NAN,
    };
    #[cfg(not(target_arch = "x86_64"))]
    let operations = f64::NAN * rounds;
    operations / (cpu_seconds() - start)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// 24 independent chains; returns the operations of a round.
    #[target_feature(enable = "avx512f")]
    pub fn avx512(rounds: usize) -> usize {
        let (x, y) = (
            _mm512_set1_ps(black_box(0.999)),
            _mm512_set1_ps(black_box(1e-3)),
        );
        let mut sums = [_mm512_set1_ps(1.0); 24];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, x, y);
            }
        }
        let mut all = sums[0];
        for sum in &sums[1..] {
            all = _mm512_add_ps(all, *sum);
        }
        black_box(all);
        24 * 32
    }

    /// 24 independent chains of dot products; returns the operations of a round.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn bf16(rounds: usize) -> usize {
        #[expect(unsafe_code, reason = "512 plain bits of either type")]
        // SAFETY: as the reason says.
        let x = unsafe {
            std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(black_box(0x3f00_3f00)))
        };
        let mut sums = [_mm512_set1_ps(1.0); 24];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, x, x);
            }
        }
        let mut all = sums[0];
        for sum in &sums[1..] {
            all = _mm512_add_ps(all, *sum);
        }
        black_box(all);
        24 * 64
    }

    /// 12 independent chains; returns the operations of a round.
    #[target_feature(enable = "avx2,fma")]
    pub fn avx2(rounds: usize) -> usize {
        let (x, y) = (
            _mm256_set1_ps(black_box(0.999)),
            _mm256_set1_ps(black_box(1e-3)),
        );
        let mut sums = [_mm256_set1_ps(1.0); 12];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, x, y);
            }
        }
        black_box(sums.iter().map(|sum| _mm256_cvtss_f32(*sum)).sum::<f32>());
        12 * 16
    }
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// The most memory this process ever held, in MB of 2²⁰ bytes.
fn peak_memory() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.ok_or("the kernel does not say VmHWM")?.parse::<u64>()? / 1024)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
