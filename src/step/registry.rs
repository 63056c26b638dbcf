//! The kinds a build knows, behind one object-safe face.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::{
    Context, FieldError, InPort, Mention, OutPort, Params, Program, Purity, Resources, Resumes,
    Step, StepError, Wiring,
};

/// A [`Step`] without its type: what the graph and the executor work with.
///
/// Implemented for every [`Step`] by [`Registry::add`]; not meant to be
/// implemented by hand.
pub trait Kind: Send + Sync {
    /// The name behind `uses =`.
    fn name(&self) -> &'static str;
    /// The version that enters the key.
    fn version(&self) -> u32;
    /// One sentence.
    fn about(&self) -> &'static str;
    /// Whether results may be cached.
    fn purity(&self) -> Purity;
    /// Whether it keeps checkpoints.
    fn resumes(&self) -> Resumes;
    /// Whether it uses the network.
    fn network(&self) -> bool;
    /// The input ports.
    fn inputs(&self) -> Vec<InPort>;
    /// The JSON schema of the parameters: an object with `properties`, all
    /// subschemas inlined.
    fn schema(&self) -> Value;
    /// Turns the fields of the pipeline file into effective parameters:
    /// defaults filled in, types checked, own checks passed.
    fn resolve(&self, fields: Params) -> Result<Params, FieldError>;
    /// All that the graph asks of a kind at once, so that the parameters are
    /// read once: 10,000 steps are to take no time that a person notices.
    fn shape(&self, fields: Params) -> Result<Shape, FieldError>;
    /// The output ports for effective parameters.
    fn outputs(&self, params: &Params) -> Result<Vec<OutPort>, FieldError>;
    /// The environment variables that enter the key.
    fn environment(&self, params: &Params) -> Result<Vec<String>, FieldError>;
    /// Whether [`Kind::check_wiring`] is to be asked.
    fn looks_back(&self) -> bool;
    /// Checks what the inputs of a step come from ([`Step::check_wiring`]).
    fn check_wiring(
        &self,
        params: &Params,
        step: usize,
        wiring: &dyn Wiring,
    ) -> Result<(), FieldError>;
    /// The program to start, for kinds that are one.
    fn program(&self, params: &Params, context: &Context<'_>)
    -> Option<Result<Program, StepError>>;
    /// Does the work in this process.
    fn run(&self, params: &Params, context: &mut Context<'_>) -> Result<(), StepError>;
}

/// What the fields of a step in the pipeline file come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// The effective parameters ([`Kind::resolve`]).
    pub params: Params,
    /// The output ports.
    pub outputs: Vec<OutPort>,
    /// The environment variables that enter the key.
    pub environment: Vec<String>,
    /// The labels that parameters mention ([`Step::mentions`]).
    pub mentions: Vec<Mention>,
    /// What it asks of the machine unless the step says otherwise.
    pub resources: Resources,
}

/// The JSON schema of a type, all subschemas inlined.
pub fn schema_of<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

struct Typed<S>(PhantomData<fn() -> S>);

fn parse<S: Step>(params: Params) -> Result<S::Params, FieldError> {
    serde_json::from_value(Value::Object(params)).map_err(bare)
}

fn effective<S: Step>(params: &S::Params) -> Result<Params, FieldError> {
    S::check(params)?;
    match serde_json::to_value(params).map_err(bare)? {
        Value::Object(map) => Ok(map),
        _ => Ok(Params::new()),
    }
}

fn bare(error: serde_json::Error) -> FieldError {
    FieldError {
        field: None,
        message: error.to_string(),
    }
}

impl<S: Step> Kind for Typed<S> {
    fn name(&self) -> &'static str {
        S::KIND
    }

    fn version(&self) -> u32 {
        S::VERSION
    }

    fn about(&self) -> &'static str {
        S::ABOUT
    }

    fn purity(&self) -> Purity {
        S::PURITY
    }

    fn resumes(&self) -> Resumes {
        S::RESUMES
    }

    fn network(&self) -> bool {
        S::NETWORK
    }

    fn inputs(&self) -> Vec<InPort> {
        S::inputs()
    }

    fn schema(&self) -> Value {
        schema_of::<S::Params>()
    }

    fn resolve(&self, fields: Params) -> Result<Params, FieldError> {
        effective::<S>(&parse::<S>(fields)?)
    }

    fn shape(&self, fields: Params) -> Result<Shape, FieldError> {
        let params = parse::<S>(fields)?;
        Ok(Shape {
            params: effective::<S>(&params)?,
            outputs: S::outputs(&params),
            environment: S::environment(&params),
            mentions: S::mentions(&params),
            resources: S::resources(&params),
        })
    }

    fn outputs(&self, params: &Params) -> Result<Vec<OutPort>, FieldError> {
        Ok(S::outputs(&parse::<S>(params.clone())?))
    }

    fn looks_back(&self) -> bool {
        S::LOOKS_BACK
    }

    fn check_wiring(
        &self,
        params: &Params,
        step: usize,
        wiring: &dyn Wiring,
    ) -> Result<(), FieldError> {
        S::check_wiring(&parse::<S>(params.clone())?, step, wiring)
    }

    fn environment(&self, params: &Params) -> Result<Vec<String>, FieldError> {
        Ok(S::environment(&parse::<S>(params.clone())?))
    }

    fn program(
        &self,
        params: &Params,
        context: &Context<'_>,
    ) -> Option<Result<Program, StepError>> {
        match parse::<S>(params.clone()) {
            Ok(params) => S::program(&params, context),
            Err(e) => Some(Err(e.into())),
        }
    }

    fn run(&self, params: &Params, context: &mut Context<'_>) -> Result<(), StepError> {
        S::run(&parse::<S>(params.clone())?, context)
    }
}

/// The kinds a build knows, by name.
#[derive(Default)]
pub struct Registry(BTreeMap<&'static str, Box<dyn Kind>>);

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Registry {
    /// A registry without any kind.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a kind. A kind of the same name is replaced.
    pub fn add<S: Step>(&mut self) -> &mut Self {
        self.0.insert(S::KIND, Box::new(Typed::<S>(PhantomData)));
        self
    }

    /// The kind of that name.
    pub fn get(&self, name: &str) -> Option<&dyn Kind> {
        self.0.get(name).map(|kind| &**kind)
    }

    /// All kinds, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Kind> {
        self.0.values().map(|kind| &**kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::PortType;
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    struct Copy;

    #[derive(Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct CopyParams {
        /// How often.
        #[serde(default = "one")]
        times: u32,
    }

    fn one() -> u32 {
        1
    }

    impl Step for Copy {
        type Params = CopyParams;
        const KIND: &'static str = "test.copy";
        const VERSION: u32 = 1;
        const ABOUT: &'static str = "Copies.";

        fn inputs() -> Vec<InPort> {
            vec![InPort::one("from", PortType::File, "what to copy")]
        }

        fn outputs(_: &CopyParams) -> Vec<OutPort> {
            vec![OutPort::new("copy", PortType::File, "copy")]
        }

        fn check(params: &CopyParams) -> Result<(), FieldError> {
            if params.times == 0 {
                return Err(FieldError::new("times", "must be at least 1"));
            }
            Ok(())
        }

        fn run(_: &CopyParams, _: &mut Context<'_>) -> Result<(), StepError> {
            Ok(())
        }
    }

    #[test]
    fn defaults_are_filled_in_and_checks_run() {
        let mut registry = Registry::new();
        registry.add::<Copy>();
        let kind = registry.get("test.copy").unwrap();
        let params = kind.resolve(Params::new()).unwrap();
        assert_eq!(Value::Object(params), json!({"times": 1}));
        let zero = json!({"times": 0}).as_object().unwrap().clone();
        assert_eq!(
            kind.resolve(zero).unwrap_err().field.as_deref(),
            Some("times")
        );
        assert_eq!(
            kind.schema()["properties"]["times"]["description"],
            "How often."
        );
    }
}
