//! Tests of what an adapter can become: PEFT, MLX and GGUF, and a base with it merged in.

use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::{Value, json};

use super::adapter::{self, Base};
use super::config::{Family, ModelConfig, SpecialIds};
use super::gguf::{self, Data, Gguf};
use super::kernels::Isa;
use super::layout::{Module, Slot};
use super::llama_cpp::{self, Width};
use super::lora::{Exception, Lora, LoraConfig};
use super::merge::{MergeError, merge};
use super::mlx;
use super::model::Decoder;
use super::origin::Origin;
use super::rng::Stream;
use super::tests::{batch, config, random_decoder};
use super::weights::{Described, Sink, Source, narrow};

/// A folder with a model of random weights and the class `architecture` in its configuration.
struct Fixture {
    space: tempfile::TempDir,
    config: ModelConfig,
}

impl Fixture {
    fn new(family: Family) -> Self {
        let space = tempfile::tempdir().unwrap();
        let config = config(family);
        let decoder = random_decoder(&config, Isa::detect());
        let model = space.path().join("model");
        std::fs::create_dir(&model).unwrap();
        config.write(&model, SpecialIds::default()).unwrap();
        decoder
            .weights
            .write(&model.join("model.safetensors"))
            .unwrap();
        Fixture { space, config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.space.path().join(name)
    }

    fn base(&self) -> Base {
        Base::of(&self.path("model")).unwrap()
    }

    fn lora(&self, targets: &[&str], layers: Option<&[usize]>, stabilized: bool) -> Lora {
        let wanted = LoraConfig {
            rank: 3,
            alpha: 5.0,
            rank_stabilized: stabilized,
            dropout: 0.1,
            dora: false,
            target_modules: targets.iter().map(|t| (*t).to_owned()).collect(),
            layers: layers.map(<[usize]>::to_vec),
        };
        filled(Lora::zeros(
            wanted.resolve(&self.config).unwrap(),
            &self.config,
        ))
    }

    /// The same with a magnitude for every row.
    fn dora(&self, lora: Lora) -> Lora {
        let config = LoraConfig {
            dora: true,
            ..lora.config
        };
        filled(Lora::with_exceptions(config, lora.exceptions, &self.config))
    }

    fn written(&self, name: &str, lora: &Lora) -> PathBuf {
        let folder = self.path(name);
        adapter::write(&folder, lora, &self.base()).unwrap();
        folder
    }
}

fn filled(mut lora: Lora) -> Lora {
    for tensor in lora.tensors.iter_mut() {
        Stream::new(6, "test", 0, &tensor.name).normal(0.0, 0.2, &mut tensor.data);
    }
    lora
}

fn bytes(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap());
    let file = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, std::fs::read(entry.path()).unwrap())
    };
    let mut files: Vec<_> = entries.map(file).collect();
    files.sort();
    files
}

fn json_of(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Changes fields of a JSON file.
fn change(path: PathBuf, fields: Value) {
    let mut value = json_of(path.clone());
    for (name, field) in fields.as_object().unwrap() {
        value[name] = field.clone();
    }
    std::fs::write(path, value.to_string()).unwrap();
}

const SHAPES: [(&[&str], Option<&[usize]>); 5] = [
    (&["all-linear"], None),
    (&["q_proj", "v_proj"], Some(&[1])),
    (&["mlp.down_proj"], Some(&[0])),
    (&["o_proj"], None),
    (&["model.layers.0.self_attn.k_proj", "up_proj"], None),
];

#[test]
fn an_adapter_comes_back_from_mlx_bit_for_bit() {
    let f = Fixture::new(Family::Llama);
    for (n, (targets, layers)) in SHAPES.into_iter().enumerate() {
        let lora = |stabilized| f.lora(targets, layers, stabilized);
        let adapters = [lora(false), lora(true), f.dora(lora(true))];
        for (m, lora) in adapters.into_iter().enumerate() {
            let peft = f.written(&format!("peft-{n}-{m}"), &lora);
            let (read, of) = adapter::read_with_base(&peft, &f.config, &f.base()).unwrap();
            assert_eq!(read.config, lora.config);
            let folder = f.path(&format!("mlx-{n}-{m}"));
            mlx::write(&folder, &read, &f.config, &of, Dtype::F32).unwrap();
            let (back, of) = mlx::read(&folder, &f.config, &f.base()).unwrap();
            let again = f.path(&format!("again-{n}-{m}"));
            adapter::write(&again, &back, &of).unwrap();
            assert_eq!(bytes(&again), bytes(&peft), "{targets:?} {layers:?}");
        }
    }
}

#[test]
fn an_mlx_folder_is_as_mlx_lm_reads_it() {
    let f = Fixture::new(Family::Llama);
    let of = f.base();
    let expected = [
        (2, 7, "mlp.down_proj"),
        (1, 2, "self_attn.q_proj"),
        // Block 0 is not among the last ones: only whole paths say so.
        (2, 1, "model.layers.0.mlp.down_proj"),
        (2, 1, "self_attn.o_proj"),
        (2, 3, "model.layers.0.mlp.up_proj"),
    ];
    for ((targets, layers), (blocks, n, first)) in SHAPES.into_iter().zip(expected) {
        let folder = f.path("mlx");
        let lora = f.lora(targets, layers, false);
        mlx::write(&folder, &lora, &f.config, &of, Dtype::F32).unwrap();
        let config = json_of(folder.join("adapter_config.json"));
        let keys = config["lora_parameters"]["keys"].as_array().unwrap();
        assert_eq!(config["num_layers"], blocks, "{targets:?} {layers:?}");
        assert_eq!((keys.len(), &keys[0]), (n, &json!(first)));
    }
    let lora = f.lora(&["q_proj"], None, true);
    let folder = f.path("stabilized");
    mlx::write(&folder, &lora, &f.config, &of, Dtype::F16).unwrap();
    let config = json_of(folder.join("adapter_config.json"));
    assert_eq!(config["lora_parameters"]["scale"], 5.0 / 3f64.sqrt());
    let mut source = Source::open(&folder.join("adapters.safetensors")).unwrap();
    let name = "model.layers.1.self_attn.q_proj.lora_a";
    let (info, values) = (source.tensors()[name].clone(), source.values(name).unwrap());
    assert_eq!((info.dtype, info.shape), (Dtype::F16, vec![24, 3]));
    let pair = lora.pair(1, Slot::Q).unwrap();
    let a = lora.tensors.get(pair.a);
    assert_eq!(values[3 * 7 + 2], f16::from_f32(a[2 * 24 + 7]).to_f32());
}

#[test]
fn adapters_of_mlx_lm_are_read_and_what_does_not_fit_is_refused() {
    let f = Fixture::new(Family::Llama);
    let folder = f.path("mlx");
    let lora = f.lora(&["q_proj", "v_proj"], Some(&[1]), true);
    mlx::write(&folder, &lora, &f.config, &f.base(), Dtype::F32).unwrap();
    // mlx-lm itself writes no such file, and many more fields.
    std::fs::remove_file(folder.join("retune.json")).unwrap();
    let config = folder.join("adapter_config.json");
    change(
        config.clone(),
        json!({"iters": 10, "lora_parameters": {"rank": 3, "scale": 20.0, "dropout": 0.0}}),
    );
    let (read, of) = mlx::read(&folder, &f.config, &f.base()).unwrap();
    assert_eq!(
        (read.config.alpha, read.config.rank_stabilized),
        (60.0, false)
    );
    assert_eq!(read.config.layers, Some(vec![1]));
    assert_eq!((&read.tensors, of), (&lora.tensors, Base::default()));

    let error = |fields: Value| {
        change(config.clone(), fields);
        mlx::read(&folder, &f.config, &f.base())
            .unwrap_err()
            .to_string()
    };
    let rank = error(json!({"lora_parameters": {"rank": 4, "scale": 1.0}}));
    assert!(rank.contains("has shape [24, 3], not [24, 4]"), "{rank}");
    change(
        config.clone(),
        json!({"lora_parameters": {"rank": 3, "scale": 20.0, "dropout": 0.0}}),
    );
    let dora = error(json!({"fine_tune_type": "dora"}));
    assert!(dora.contains("q_proj.m' is missing"), "{dora}");
    let full = error(json!({"fine_tune_type": "full"}));
    assert!(full.contains("fine_tune_type is \"full\""), "{full}");
    let own = Exception {
        module: Module {
            layer: 1,
            slot: Slot::Q,
        },
        rank: 2,
        alpha: 5.0,
    };
    let lora = Lora::with_exceptions(lora.config, vec![own], &f.config);
    let error = mlx::write(&folder, &lora, &f.config, &f.base(), Dtype::F32).unwrap_err();
    assert!(
        error.to_string().contains("one rank and one scale"),
        "{error}"
    );
}

#[test]
fn a_gguf_file_holds_the_adapter_in_the_order_of_llama_cpp() {
    for (family, permuted) in [(Family::Llama, true), (Family::Olmo2, false)] {
        let f = Fixture::new(family);
        let lora = f.lora(&["all-linear"], None, true);
        let path = f.path("adapter.gguf");
        let base = Base {
            name: Some("owner/model".into()),
            ..f.base()
        };
        llama_cpp::write(&path, &lora, &f.path("model"), &f.config, &base, Width::F32).unwrap();
        let file = Gguf::read(&path).unwrap();
        let text = |key: &str| match file.get(key) {
            Some(gguf::Value::Text(text)) => text.clone(),
            other => panic!("{key}: {other:?}"),
        };
        assert_eq!(
            text("general.architecture"),
            if permuted { "llama" } else { "olmo2" }
        );
        assert_eq!(
            (text("general.type"), text("adapter.type")),
            ("adapter".into(), "lora".into())
        );
        assert_eq!(text("general.base_model.0.name"), "model");
        // alpha / rank there is alpha / √rank here.
        let alpha = gguf::Value::Float((5.0 * 3f64.sqrt()) as f32);
        assert_eq!(file.get("adapter.lora.alpha"), Some(&alpha));
        assert_eq!(file.tensors.len(), 28);
        for (module, pair) in lora.modules() {
            let found = |part: &str| {
                let name = format!("{}.lora_{part}", llama_cpp::name(module));
                match &file.tensor(&name).unwrap().data {
                    Data::F32(values) => values.clone(),
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!(found("a"), lora.tensors.get(pair.a), "{module}");
            let (b, found) = (lora.tensors.get(pair.b), found("b"));
            let rotated = matches!(module.slot, Slot::Q | Slot::K) && permuted;
            for row in 0..b.len() / 3 {
                // Heads are 6 wide: of each, 0 3 1 4 2 5.
                let of_head = [0, 3, 1, 4, 2, 5][row % 6];
                let from = if rotated {
                    row - row % 6 + of_head
                } else {
                    row
                };
                assert_eq!(found[3 * row..][..3], b[3 * from..][..3], "{module} {row}");
            }
        }
    }
}

/// As mlx-lm's `DoRALinear` has it: `m` beside the two matrices.
#[test]
fn magnitudes_are_tensors_of_mlx_and_gguf_has_none() {
    let f = Fixture::new(Family::Llama);
    let lora = f.dora(f.lora(&["q_proj"], None, false));
    let folder = f.path("mlx");
    mlx::write(&folder, &lora, &f.config, &f.base(), Dtype::F32).unwrap();
    let config = json_of(folder.join("adapter_config.json"));
    assert_eq!(config["fine_tune_type"], "dora");
    let mut source = Source::open(&folder.join("adapters.safetensors")).unwrap();
    let values = source.shaped("model.layers.1.self_attn.q_proj.m", &[24]);
    let pair = lora.pair(1, Slot::Q).unwrap();
    assert_eq!(
        values.unwrap(),
        lora.tensors.get(pair.magnitude.unwrap()),
        "as they are"
    );
    let path = f.path("adapter.gguf");
    let base = f.base();
    let model = f.path("model");
    let error = llama_cpp::write(&path, &lora, &model, &f.config, &base, Width::F32).unwrap_err();
    assert!(error.to_string().contains("adapter.merge"), "{error}");
}

#[test]
fn gguf_halves_values_and_refuses_what_llama_cpp_does_not_know() {
    let f = Fixture::new(Family::Llama);
    let path = f.path("adapter.gguf");
    let write = |lora: &Lora, width| {
        llama_cpp::write(&path, lora, &f.path("model"), &f.config, &f.base(), width)
    };
    let mut lora = f.lora(&["v_proj"], None, false);
    write(&lora, Width::F16).unwrap();
    let file = Gguf::read(&path).unwrap();
    assert_eq!(
        file.get("adapter.lora.alpha"),
        Some(&gguf::Value::Float(5.0))
    );
    let pair = lora.pair(1, Slot::V).unwrap();
    let b = lora.tensors.get(pair.b).iter().map(|x| f16::from_f32(*x));
    let tensor = file.tensor("blk.1.attn_v.weight.lora_b").unwrap();
    assert_eq!(
        (&tensor.shape, &tensor.data),
        (&vec![12, 3], &Data::F16(b.collect()))
    );

    lora.tensors.get_mut(pair.b)[0] = 1e6;
    let error = write(&lora, Width::F16).unwrap_err().to_string();
    assert!(error.contains("too large for f16"), "{error}");
    let own = |rank, alpha| {
        let module = Module {
            layer: 1,
            slot: Slot::V,
        };
        let exceptions = vec![Exception {
            module,
            rank,
            alpha,
        }];
        Lora::with_exceptions(lora.config.clone(), exceptions, &f.config)
    };
    let error = write(&own(3, 6.0), Width::F32).unwrap_err().to_string();
    assert!(error.contains("would need 6"), "{error}");
    // Another rank alone is no matter: llama.cpp takes it from the matrices.
    write(&own(2, 5.0), Width::F32).unwrap();
    for (class, known) in [
        ("MistralForCausalLM", true),
        ("Qwen3ForCausalLM", true),
        ("GPT2LMHeadModel", false),
    ] {
        change(
            f.path("model/config.json"),
            json!({"architectures": [class]}),
        );
        let written = write(&own(3, 5.0), Width::F32);
        assert_eq!(written.is_ok(), known, "{class}");
        if let Err(error) = written {
            assert!(error.to_string().contains("Qwen2ForCausalLM"), "{error}");
        }
    }
}

/// The base's weights in two files with an index, as `dtype`.
fn shard(f: &Fixture, dtype: Dtype) {
    let model = f.path("model");
    let whole = model.join("model.safetensors");
    let mut source = Source::open(&whole).unwrap();
    let names: Vec<String> = source.tensors().keys().cloned().collect();
    let (one, two) = names.split_at(names.len() / 2);
    let mut map = serde_json::Map::new();
    for (names, file) in [(one, "model-1.safetensors"), (two, "model-2.safetensors")] {
        let described: Vec<Described> = names
            .iter()
            .map(|name| Described {
                name: name.clone(),
                dtype,
                shape: source.tensors()[name].shape.clone(),
            })
            .collect();
        let mut sink = Sink::create(&model.join(file), "pt", &described).unwrap();
        for name in names {
            map.insert(name.clone(), file.into());
            let values = source.values(name).unwrap();
            sink.put(&narrow(dtype, &values).unwrap()).unwrap();
        }
        sink.finish().unwrap();
    }
    let index = json!({"metadata": {"total_size": 0, "x": 1}, "weight_map": map});
    std::fs::write(
        model.join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    std::fs::remove_file(whole).unwrap();
}

fn greatest_difference(a: &[f32], b: &[f32]) -> f32 {
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

#[test]
fn the_merged_model_gives_the_logits_of_base_and_adapter() {
    for family in [Family::Olmo2, Family::Llama] {
        let f = Fixture::new(family);
        let own = Exception {
            module: Module {
                layer: 1,
                slot: Slot::Up,
            },
            rank: 5,
            alpha: 2.0,
        };
        let both = [vec![], vec![own]];
        for (n, exceptions) in both.clone().into_iter().chain(both).enumerate() {
            let config = f.lora(&["all-linear"], None, true).config;
            let plain = filled(Lora::with_exceptions(config, exceptions, &f.config));
            let lora = if n < 2 { plain } else { f.dora(plain) };
            let adapter = f.written(&format!("adapter{n}"), &lora);
            let out = f.path(&format!("merged{n}"));
            let summary = merge(&f.path("model"), &adapter, &out, None).unwrap();
            assert_eq!(summary.merged, 14);
            let base = Decoder::open(&f.path("model"), Isa::detect()).unwrap();
            let merged = Decoder::open(&out, Isa::detect()).unwrap();
            let batch = batch(&f.config);
            let with_adapter = base.logits(Some(&lora), &batch);
            let difference = greatest_difference(&merged.logits(None, &batch), &with_adapter);
            assert!(difference < 1e-4, "{family:?}: {difference:e}");
            let without = greatest_difference(&base.logits(None, &batch), &with_adapter);
            assert!(without > 0.1, "the adapter does something: {without}");
        }
    }
}

#[test]
fn merging_keeps_files_and_types_and_its_bits_do_not_depend_on_threads() {
    let f = Fixture::new(Family::Olmo2);
    shard(&f, Dtype::BF16);
    let model = f.path("model");
    std::fs::write(model.join("tokenizer.json"), "{}").unwrap();
    std::fs::write(model.join("notes.txt"), "mine").unwrap();
    let lora = f.lora(&["q_proj", "down_proj"], Some(&[1]), false);
    let adapter = f.written("adapter", &lora);
    let merged = |name: &str, dtype, threads| {
        let out = f.path(name);
        let run = || merge(&model, &adapter, &out, dtype).unwrap();
        super::with_threads(threads, run).unwrap();
        out
    };
    let one = merged("one", None, 1);
    assert_eq!(bytes(&merged("three", None, 3)), bytes(&one));
    let names: Vec<String> = bytes(&one).into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "config.json",
            "model-1.safetensors",
            "model-2.safetensors",
            "model.safetensors.index.json",
            "retune.json",
            "tokenizer.json"
        ]
    );
    // What no adapter sits on has the same bits; the rest is rounded once.
    let mut changed = 0;
    for file in ["model-1.safetensors", "model-2.safetensors"] {
        let mut before = Source::open(&model.join(file)).unwrap();
        let mut after = Source::open(&one.join(file)).unwrap();
        for name in before.tensors().clone().keys() {
            assert_eq!(after.tensors()[name].dtype, Dtype::BF16);
            changed += usize::from(before.read(name).unwrap() != after.read(name).unwrap());
        }
        let name = "model.layers.1.mlp.down_proj.weight";
        if let Ok(w) = before.values(name) {
            let pair = lora.pair(1, Slot::Down).unwrap();
            let (a, b) = (lora.tensors.get(pair.a), lora.tensors.get(pair.b));
            let inputs = f.config.intermediate_size;
            let sum: f64 = (0..3)
                .map(|k| f64::from(b[2 * 3 + k]) * f64::from(a[k * inputs + 5]))
                .sum();
            let exact = f64::from(w[2 * inputs + 5]) + 5.0 / 3.0 * sum;
            let found = after.values(name).unwrap()[2 * inputs + 5];
            assert_eq!(found, bf16::from_f32(exact as f32).to_f32());
        }
    }
    assert_eq!(changed, 2);

    let wide = merged("wide", Some(Dtype::F32), 2);
    let index = json_of(wide.join("model.safetensors.index.json"));
    let elements = random_decoder(&f.config, Isa::detect()).weights.elements();
    assert_eq!(
        index["metadata"],
        json!({"total_size": 4 * elements, "x": 1})
    );
    assert_eq!(json_of(wide.join("config.json"))["torch_dtype"], "float32");
    assert_eq!(
        json_of(merged("half", Some(Dtype::F16), 2).join("config.json"))["torch_dtype"],
        "float16"
    );
}

#[test]
fn an_adapter_is_merged_once_and_into_its_own_base() {
    let f = Fixture::new(Family::Llama);
    let adapter = f.written("adapter", &f.lora(&["q_proj"], None, false));
    let (model, out) = (f.path("model"), f.path("merged"));
    merge(&model, &adapter, &out, None).unwrap();
    let origin = Origin::read(&out).unwrap();
    assert_eq!(origin.merged.len(), 1);
    assert_eq!(Some(origin.merged[0].base), f.base().digest);
    let twice = merge(&out, &adapter, &f.path("twice"), None).unwrap_err();
    assert!(matches!(twice, MergeError::Again { .. }), "{twice}");
    // Also without the digest of the base, which would refuse it first.
    std::fs::remove_file(adapter.join("retune.json")).unwrap();
    let twice = merge(&out, &adapter, &f.path("twice"), None).unwrap_err();
    assert!(
        twice.to_string().contains("is already in the model"),
        "{twice}"
    );
    assert!(!f.path("twice").exists());
    // Another adapter goes on top, and the model says both.
    let other = f.path("other");
    adapter::write(&other, &f.lora(&["o_proj"], None, false), &Base::default()).unwrap();
    merge(&out, &other, &f.path("both"), None).unwrap();
    assert_eq!(Origin::read(&f.path("both")).unwrap().merged.len(), 2);

    let other = f.written("third", &f.lora(&["v_proj"], None, false));
    let error = merge(&out, &other, &f.path("no"), None).unwrap_err();
    assert!(
        error.to_string().contains("trained on another base"),
        "{error}"
    );
    let large = f.written("large", &{
        let mut lora = f.lora(&["v_proj"], None, false);
        let pair = lora.pair(0, Slot::V).unwrap();
        lora.tensors.get_mut(pair.b).fill(1e8);
        lora
    });
    let error = merge(&model, &large, &f.path("no"), Some(Dtype::F16)).unwrap_err();
    assert!(error.to_string().contains("too large for F16"), "{error}");
}

#[test]
fn the_names_of_bases_decide_where_there_is_no_digest() {
    let f = Fixture::new(Family::Llama);
    let model = f.path("model");
    Origin::hub("owner/model", "abc").write(&model).unwrap();
    let base = f.base();
    assert_eq!(base.name.as_deref(), Some("owner/model"));
    let lora = f.lora(&["q_proj"], None, false);
    let folder = f.written("adapter", &lora);
    let config = folder.join("adapter_config.json");
    assert_eq!(
        json_of(config.clone())["base_model_name_or_path"],
        "owner/model"
    );
    assert_eq!(json_of(config.clone())["revision"], "abc");
    let read = || adapter::read(&folder, &f.config, &base);
    // The digest says that it is this base, whatever it is called.
    change(
        config.clone(),
        json!({"base_model_name_or_path": "other/model"}),
    );
    assert!(read().is_ok());
    std::fs::remove_file(folder.join("retune.json")).unwrap();
    let error = read().unwrap_err().to_string();
    assert!(
        error.contains("is other/model, and the model is owner/model"),
        "{error}"
    );
    for same in [
        json!("Owner/Model"),
        json!("/home/me/model"),
        json!("./x"),
        json!("model"),
        json!(null),
    ] {
        change(config.clone(), json!({"base_model_name_or_path": same}));
        assert!(read().is_ok(), "{same}");
    }
    // A model that something was merged into is not that of the Hub any more.
    merge(&model, &folder, &f.path("merged"), None).unwrap();
    assert_eq!(Base::of(&f.path("merged")).unwrap().name, None);
}

#[test]
fn adapters_of_peft_are_read_in_every_type() {
    let f = Fixture::new(Family::Llama);
    let lora = f.lora(&["q_proj", "up_proj"], None, false);
    let folder = f.written("adapter", &lora);
    std::fs::remove_file(folder.join("retune.json")).unwrap();
    let path = folder.join(adapter::WEIGHTS);
    for dtype in [Dtype::F16, Dtype::BF16] {
        let mut tensors: Vec<_> = lora.tensors.iter().collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let described = tensors.iter().map(|tensor| Described {
            name: tensor.name.clone(),
            dtype,
            shape: tensor.shape.clone(),
        });
        let mut sink = Sink::create(&path, "pt", &described.collect::<Vec<_>>()).unwrap();
        for tensor in &tensors {
            sink.put(&narrow(dtype, &tensor.data).unwrap()).unwrap();
        }
        sink.finish().unwrap();
        let read = adapter::read(&folder, &f.config, &f.base()).unwrap();
        for (ours, theirs) in read.tensors.iter().zip(lora.tensors.iter()) {
            let difference = greatest_difference(&ours.data, &theirs.data);
            assert!(difference < 4e-3, "{dtype:?} {}: {difference}", ours.name);
        }
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::write(folder.join("adapter_model.bin"), "").unwrap();
    let error = adapter::read(&folder, &f.config, &f.base()).unwrap_err();
    assert!(error.to_string().contains("safe_serialization"), "{error}");
}
