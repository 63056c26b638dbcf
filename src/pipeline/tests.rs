//! The file alone: overrides, their precedence, and references to parameters.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn source(text: &str) -> Source {
    Source {
        path: "pipelines/demo.v2.toml".to_owned(),
        text: text.to_owned(),
    }
}

fn overrides(set: &[(&str, &str)], env: &[(&str, &str)]) -> Overrides {
    let pair = |&(a, b): &(&str, &str)| (a.to_owned(), b.to_owned());
    Overrides {
        set: set.iter().map(pair).collect(),
        env: env.iter().map(pair).collect(),
    }
}

fn parse(text: &str, set: &[(&str, &str)], env: &[(&str, &str)]) -> Pipeline {
    Pipeline::parse(source(text), &overrides(set, env)).unwrap_or_else(|faults| panic!("{faults}"))
}

fn field<'a>(pipeline: &'a Pipeline, key: &str) -> &'a Field {
    pipeline.steps[0].field(key).unwrap()
}

const FILE: &str = "[params]\nrate = 5e-6\n\
                    [steps.stage-1]\nuses = 'k'\nrate = '${params.rate}'\nepochs = 1\n\
                    inputs = { rows = '@a' }\n[steps.b__c]\nuses = 'k'\n";

#[test]
fn the_command_line_beats_the_environment_and_that_the_file() {
    let env = [
        ("RETUNE_STEPS__STAGE_1__EPOCHS", "2"),
        ("retune_ignored", "1"),
        ("HOME", "/"),
    ];
    let pipeline = parse(FILE, &[], &env);
    assert_eq!(field(&pipeline, "epochs").value, json!(2));
    let variable = ValueSource::Env("RETUNE_STEPS__STAGE_1__EPOCHS".to_owned());
    assert_eq!(field(&pipeline, "epochs").source, variable);
    let set = [("steps.stage-1.epochs", "3"), ("steps.stage-1.epochs", "4")];
    let pipeline = parse(FILE, &set, &env);
    assert_eq!(
        field(&pipeline, "epochs").value,
        json!(4),
        "the later one holds"
    );
    assert_eq!(field(&pipeline, "epochs").source, ValueSource::CommandLine);
    assert_eq!(
        field(&parse(FILE, &[], &[]), "epochs").source,
        ValueSource::File
    );
}

#[test]
fn a_field_has_the_source_of_the_parameter_it_refers_to() {
    let pipeline = parse(FILE, &[], &[]);
    assert_eq!(field(&pipeline, "rate").value, json!(5e-6));
    assert_eq!(field(&pipeline, "rate").source, ValueSource::File);
    let pipeline = parse(
        FILE,
        &[("params.rate", "5e-5")],
        &[("RETUNE_PARAMS__RATE", "1")],
    );
    assert_eq!(field(&pipeline, "rate").value, json!(5e-5));
    assert_eq!(field(&pipeline, "rate").source, ValueSource::CommandLine);
}

#[test]
fn fields_that_the_file_lacks_can_be_set() {
    let set = [
        ("steps.stage-1.inputs.more", "@b"),
        ("steps.stage-1.a.b", "1"),
    ];
    let env = [
        ("RETUNE_STEPS__STAGE_1__New", "x"),
        ("RETUNE_STEPS__B__C__INPUTS__ROWS", "@z"),
    ];
    let pipeline = parse(FILE, &set, &env);
    assert_eq!(
        field(&pipeline, "inputs").value,
        json!({"rows": "@a", "more": "@b"})
    );
    assert_eq!(field(&pipeline, "a").value, json!({"b": 1}));
    assert_eq!(field(&pipeline, "new").value, json!("x"));
    let inputs = pipeline.steps[1].field("inputs").unwrap();
    assert_eq!(inputs.value, json!({"rows": "@z"}));
}

#[test]
fn the_seed_and_the_name_have_defaults() {
    let pipeline = parse("", &[], &[]);
    assert_eq!((pipeline.name.as_str(), pipeline.seed), ("demo", 0));
    assert_eq!(pipeline.seed_source, ValueSource::Default);
    let text = "[pipeline]\nname = 'x'\nseed = 18446744073709551615\n";
    let pipeline = parse(text, &[], &[]);
    assert_eq!((pipeline.name.as_str(), pipeline.seed), ("x", u64::MAX));
    let pipeline = parse(
        text,
        &[("pipeline.seed", "1")],
        &[("RETUNE_PIPELINE__SEED", "2")],
    );
    assert_eq!(
        (pipeline.seed, pipeline.seed_source),
        (1, ValueSource::CommandLine)
    );
}

#[test]
fn hard_links_are_asked_for() {
    let asked =
        |text: &str, set: &[(&str, &str)], env: &[(&str, &str)]| parse(text, set, env).hard_links;
    assert!(!asked("", &[], &[]));
    let text = "[pipeline]\nhard_links = true\n";
    assert!(asked(text, &[], &[]));
    assert!(!asked(text, &[("pipeline.hard_links", "false")], &[]));
    assert!(asked("", &[], &[("RETUNE_PIPELINE__HARD_LINKS", "true")]));
}

#[test]
fn references_take_the_typed_value_or_its_text() {
    let value = |text: &str| {
        let text = format!(
            "[params]\nn = 5e-6\ni = 3\nt = 'a b'\nl = [1, 'x']\nb = true\nu = 1\n\
             [steps.a]\nuses = 'k'\nf = [\"{text}\"]\nu = '${{params.u}}'\n"
        );
        field(&parse(&text, &[], &[]), "f").value[0].clone()
    };
    assert_eq!(value("${params.n}"), json!(5e-6));
    assert_eq!(value("${params.l}"), json!([1, "x"]));
    assert_eq!(
        value("${params.i}/${params.t}-${params.b}"),
        json!("3/a b-true")
    );
    assert_eq!(value("${params.n}!"), json!("5e-6!"));
    assert_eq!(value("$${params.n}"), json!("${params.n}"));
    assert_eq!(value("$${params.n} ${params.i}"), json!("${params.n} 3"));
    assert_eq!(
        value("${inputs.n} ${HOME} $i {params.n}"),
        json!("${inputs.n} ${HOME} $i {params.n}")
    );
}

#[test]
fn places_are_bytes_of_the_file() {
    let text = "# ä\n[steps.a]\nuses = 'k'\nf = { x = [1, 'two'] }\n";
    let pipeline = parse(text, &[], &[]);
    let place = |span: Option<Span>| &text[span.unwrap()];
    let field = field(&pipeline, "f");
    assert_eq!(place(field.key_span.clone()), "f");
    assert_eq!(place(field.value_span()), "{ x = [1, 'two'] }");
    assert_eq!(place(field.spans.key("x")), "x");
    assert_eq!(place(field.spans.value("x").item(1).span.clone()), "'two'");
    assert_eq!(
        pipeline.source.position(pipeline.steps[0].name_span.start),
        (2, 8)
    );
    assert_eq!(&text[pipeline.steps[0].name_span.clone()], "a");
}

proptest! {
    #[test]
    fn any_finite_number_is_read_as_it_is_written(number in any::<f64>()) {
        prop_assume!(number.is_finite());
        let text = format!("[steps.a]\nuses = 'k'\nf = {number:e}\ng = {number:?}\n");
        let pipeline = parse(&text, &[("steps.a.h", &format!("{number:e}"))], &[]);
        for key in ["f", "g", "h"] {
            prop_assert_eq!(&field(&pipeline, key).value, &Value::from(number));
        }
    }

    #[test]
    fn any_string_survives_as_an_override(text in "[a-zA-Z@/.*$ {}_-]{0,20}") {
        prop_assume!(!["true", "false", "nan", "inf", "-nan", "-inf"].contains(&text.trim()));
        prop_assume!(!text.contains("${params.") && !text.trim().starts_with('{'));
        let pipeline = parse(FILE, &[("steps.stage-1.x", &text)], &[]);
        prop_assert_eq!(field(&pipeline, "x").value.as_str(), Some(text.as_str()));
    }
}
