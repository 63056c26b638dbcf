//! Which linear layers an adapter sits on, as a pipeline names them.

use globset::GlobBuilder;

use super::config::ModelConfig;
use super::layout::{Module, Slot};
use super::lora::LoraError;

/// The word that targets every linear layer of the blocks.
pub const ALL_LINEAR: &str = "all-linear";

/// Every linear layer of the blocks, block by block.
pub fn all(model: &ModelConfig) -> Vec<Module> {
    (0..model.layers)
        .flat_map(|layer| Slot::ALL.map(|slot| Module { layer, slot }))
        .collect()
}

/// The modules that `targets` and `layers` mean, block by block. A target is
/// [`ALL_LINEAR`], a module's path or the end of one (`q_proj`,
/// `self_attn.q_proj`), or a glob that its whole path matches; each of them
/// has to match something.
pub fn select(
    targets: &[String],
    layers: Option<&[usize]>,
    model: &ModelConfig,
) -> Result<Vec<Module>, LoraError> {
    let all = all(model);
    let mut chosen = vec![false; all.len()];
    for target in targets {
        let mut matched = false;
        let matches = matcher(target)?;
        for (module, chosen) in all.iter().zip(&mut chosen) {
            if matches(&module.to_string()) {
                (matched, *chosen) = (true, true);
            }
        }
        if !matched {
            let target = target.clone();
            let there = there(model);
            return Err(match is_glob(&target) {
                true => LoraError::UnknownPattern { target, there },
                false => LoraError::UnknownTarget { target, there },
            });
        }
    }
    let within = |module: &Module| layers.is_none_or(|some| some.contains(&module.layer));
    let chosen = all.into_iter().zip(chosen).filter(|(_, chosen)| *chosen);
    let chosen: Vec<Module> = chosen.map(|(m, _)| m).filter(within).collect();
    match chosen.is_empty() {
        true => Err(LoraError::Nothing),
        false => Ok(chosen),
    }
}

/// The shortest way to name modules that PEFT reads the same: last names and
/// blocks where these tell all, whole paths elsewhere.
pub fn naming(modules: &[Module], model: &ModelConfig) -> (Vec<String>, Option<Vec<usize>>) {
    let mut layers: Vec<usize> = modules.iter().map(|module| module.layer).collect();
    let mut slots: Vec<Slot> = modules.iter().map(|module| module.slot).collect();
    layers.sort_unstable();
    layers.dedup();
    slots.sort_unstable();
    slots.dedup();
    let mut names: Vec<String> = match layers.len() * slots.len() == modules.len() {
        true => slots.iter().map(|slot| slot.name().to_owned()).collect(),
        false => modules.iter().map(Module::to_string).collect(),
    };
    names.sort();
    let some = layers.len() < model.layers && names.len() == slots.len();
    (names, some.then_some(layers))
}

/// Whether a plain target means the module with this path.
pub fn names(target: &str, path: &str) -> bool {
    let start = path.strip_suffix(target);
    start.is_some_and(|start| start.is_empty() || start.ends_with('.'))
}

/// What there is to target, for errors.
pub fn there(model: &ModelConfig) -> String {
    let first = "model.layers.0.";
    let slots = Slot::ALL.map(|slot| Module { layer: 0, slot }.to_string());
    let slots: Vec<&str> = slots.iter().map(|path| &path[first.len()..]).collect();
    let blocks = match model.layers {
        1 => "model.layers.0".to_owned(),
        n => format!("each of model.layers.0 to model.layers.{}", n - 1),
    };
    format!(
        "{blocks} has {}; {ALL_LINEAR} is all of them",
        slots.join(", ")
    )
}

fn is_glob(target: &str) -> bool {
    target.contains(['*', '?', '[', '{'])
}

type Matcher<'a> = Box<dyn Fn(&str) -> bool + 'a>;

fn matcher(target: &str) -> Result<Matcher<'_>, LoraError> {
    if target == ALL_LINEAR {
        return Ok(Box::new(|_| true));
    }
    if !is_glob(target) {
        return Ok(Box::new(move |path| names(target, path)));
    }
    let glob = GlobBuilder::new(target).literal_separator(false).build();
    let glob = glob.map_err(|e| LoraError::BadPattern {
        target: target.to_owned(),
        message: e.kind().to_string(),
    })?;
    let glob = glob.compile_matcher();
    Ok(Box::new(move |path| glob.is_match(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ml::config::Family;
    use crate::ml::tests::config;

    fn select(targets: &[&str], layers: Option<&[usize]>) -> Result<String, String> {
        let targets: Vec<String> = targets.iter().map(|t| (*t).to_owned()).collect();
        let model = config(Family::Llama);
        let modules = super::select(&targets, layers, &model).map_err(|e| e.to_string())?;
        let (names, layers) = naming(&modules, &model);
        Ok(format!("{} {layers:?}", names.join(" ")))
    }

    #[test]
    fn targets_are_names_ends_of_paths_globs_or_all() {
        let all = "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj";
        for (targets, layers, expected) in [
            (&["all-linear"][..], None, format!("{all} None")),
            (
                &["v_proj", "q_proj", "q_proj"],
                None,
                "q_proj v_proj None".into(),
            ),
            (&["q_proj"], Some(&[1][..]), "q_proj Some([1])".into()),
            (&["q_proj"], Some(&[0, 1]), "q_proj None".into()),
            (&["self_attn.q_proj"], None, "q_proj None".into()),
            (
                &["*.mlp.*"],
                None,
                "down_proj gate_proj up_proj None".into(),
            ),
            (&["model.layers.0.*_proj"], None, format!("{all} Some([0])")),
            (&["*.[qv]_proj"], None, "q_proj v_proj None".into()),
            (
                &["model.layers.1.self_attn.q_proj", "*.{0,1}.mlp.up_proj"],
                None,
                "model.layers.0.mlp.up_proj model.layers.1.mlp.up_proj \
                 model.layers.1.self_attn.q_proj None"
                    .into(),
            ),
        ] {
            assert_eq!(select(targets, layers), Ok(expected), "{targets:?}");
        }
    }

    #[test]
    fn what_matches_nothing_is_an_error_that_lists_what_there_is() {
        let error = select(&["q_proj", "proj"], None).unwrap_err();
        insta::assert_snapshot!(error, @"target_modules: 'proj' is no linear layer of the model (each of model.layers.0 to model.layers.1 has self_attn.q_proj, self_attn.k_proj, self_attn.v_proj, self_attn.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj; all-linear is all of them)");
        let error = select(&["*.layers.7.*"], None).unwrap_err();
        assert!(
            error.contains("the pattern '*.layers.7.*' matches no"),
            "{error}"
        );
        let error = select(&["a[b"], None).unwrap_err();
        assert!(error.contains("the pattern 'a[b'"), "{error}");
        let error = select(&["model.layers.0.*"], Some(&[1])).unwrap_err();
        assert!(error.contains("nothing would be trained"), "{error}");
    }
}
