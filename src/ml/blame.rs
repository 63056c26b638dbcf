//! What to blame where a loss or a gradient is no number: the rows, and the first layer or tensor.

use std::fmt;

use super::batch::{Batch, Sequences, StepPlan};
use super::kernels::Isa;
use super::kernels::elementwise::sum_of_squares;
use super::lora::Lora;
use super::model::{Decoder, Dropout};
use super::tensors::{Tensor, Tensors};
use super::train::{Core, CoreError};

/// The first module whose output is not finite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its path: `model.layers.3`.
    pub module: String,
    /// A weight of it that is not finite itself, if there is one.
    pub weight: Option<String>,
}

/// Where a run stopped being finite, as far as that can be found out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blame {
    /// The rows that are not finite on their own.
    pub rows: Option<String>,
    /// The first module whose output is not finite.
    pub place: Option<Place>,
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(rows) = &self.rows {
            write!(f, ", on its own for {rows}")?;
        }
        if let Some(place) = &self.place {
            write!(f, ", first in the output of {}", place.module)?;
            if let Some(weight) = &place.weight {
                write!(f, ", whose weight '{weight}' is not finite")?;
            }
        }
        Ok(())
    }
}

impl Place {
    /// A module, and the first of the tensors under its name that is not finite.
    pub(super) fn of(module: String, decoder: &Decoder, lora: Option<&Lora>) -> Self {
        let isa = decoder.isa();
        let within = format!("{module}.");
        let adapter = lora.into_iter().flat_map(|lora| lora.tensors.iter());
        let weight = decoder
            .weights
            .iter()
            .chain(adapter)
            .filter(|tensor| tensor.name.contains(&within))
            .find(|tensor| !is_finite(tensor, isa))
            .map(|tensor| tensor.name.clone());
        Place { module, weight }
    }
}

/// Whether a tensor's norm is a number, which is what clipping needs.
fn is_finite(tensor: &Tensor, isa: Isa) -> bool {
    sum_of_squares(isa, &tensor.data).is_finite()
}

/// The tensor in which the backward pass, which goes from the last to the
/// first, met its first gradient that is not finite.
pub fn first_gradient(gradients: &Tensors, isa: Isa) -> Option<&str> {
    let bad = gradients.iter().filter(|tensor| !is_finite(tensor, isa));
    bad.last().map(|tensor| tensor.name.as_str())
}

/// Runs every row of a step alone, without chance, to find those whose loss
/// (or, if that is finite, gradient) is not finite. `gradients` are overwritten.
pub fn find(
    core: &mut dyn Core,
    data: &Sequences,
    plan: &StepPlan,
    gradients: &mut Tensors,
    isa: Isa,
) -> Result<Blame, CoreError> {
    let losses = first_gradient(gradients, isa).is_none();
    let numbers: Vec<usize> = plan.batches.concat();
    let mut bad = Vec::new();
    for number in &numbers {
        let batch = Batch::new([&data.all[*number]]);
        let finite = match losses {
            true => core.loss(&batch)?.sum.is_finite(),
            false => {
                gradients.clear();
                let scale = 1.0 / batch.counted().max(1) as f32;
                core.gradients(&batch, CALM, scale, gradients)?;
                first_gradient(gradients, isa).is_none()
            }
        };
        if !finite {
            bad.push(*number);
        }
    }
    let first = bad.first().map(|number| vec![*number]);
    let suspects = first.into_iter().chain(plan.batches.iter().cloned());
    let place = suspects
        .map(|numbers| Batch::new(numbers.iter().map(|n| &data.all[*n])))
        .find_map(|batch| core.first_not_finite(&batch));
    let rows = names(data, &bad, numbers.len());
    Ok(Blame { rows, place })
}

/// No noise, and dropout as good as none: that of a micro-batch no run has.
const CALM: Dropout = Dropout {
    seed: 0,
    step: u64::MAX,
    neftune_alpha: 0.0,
};

/// How a person finds rows.
fn names(data: &Sequences, bad: &[usize], all: usize) -> Option<String> {
    let first = match data.rows.get(*bad.first()?) {
        Some(row) => format!("row {} from {}", row.id.0.short(), row.origin),
        None => format!("sequence {}", bad[0]),
    };
    Some(match bad.len() {
        1 => first,
        n if n == all => format!("every row of the step ({first} is the first)"),
        n => format!("{first} and {} more", n - 1),
    })
}

#[cfg(test)]
mod tests {
    use super::super::batch::RowRef;
    use super::super::config::Family;
    use super::super::tests::{config, random_decoder, random_lora, sequence};
    use super::super::train::{FullCore, LoraCore};
    use super::*;
    use crate::data::{Content, Row};

    fn data(vocabulary: usize) -> Sequences {
        let row = |n: usize| {
            let content = Content::Text(n.to_string());
            let row = Row::new(content, Default::default(), format!("data/rows.jsonl:{n}"));
            let (id, origin) = (row.id, row.origin);
            RowRef { id, origin }
        };
        Sequences {
            all: (0..4)
                .map(|n| sequence(9, vocabulary - 1, 0, n as u64))
                .collect(),
            rows: (0..4).map(row).collect(),
            ..Sequences::default()
        }
    }

    fn plan() -> StepPlan {
        StepPlan {
            epoch: 0,
            batches: vec![vec![3, 1], vec![2, 0]],
        }
    }

    /// After the gradients of the whole step.
    fn blame(core: &mut dyn Core, data: &Sequences) -> (Option<String>, String) {
        let mut gradients = core.params().zeros_like();
        let isa = Isa::detect();
        let mut sum = 0.0;
        for numbers in plan().batches {
            let batch = Batch::new(numbers.iter().map(|n| &data.all[*n]));
            sum += core
                .gradients(&batch, CALM, 1.0, &mut gradients)
                .unwrap()
                .sum;
        }
        if !f64::is_finite(sum) {
            gradients.clear();
        }
        let gradient = first_gradient(&gradients, isa).map(str::to_owned);
        let found = find(core, data, &plan(), &mut gradients, isa).unwrap();
        (gradient, found.to_string())
    }

    #[test]
    fn a_weight_that_is_no_number_is_named_with_its_layer() {
        let config = config(Family::Llama);
        let mut decoder = random_decoder(&config, Isa::detect());
        let id = decoder.layout.layers[1].linear[5].weight;
        decoder.weights.get_mut(id)[7] = f32::NAN;
        let lora = random_lora(&config, 0.0);
        let mut core = LoraCore { decoder, lora };
        let (_, found) = blame(&mut core, &data(config.vocab_size));
        assert!(found.contains("every row of the step (row "), "{found}");
        let end = ", first in the output of model.layers.1, whose weight \
                   'model.layers.1.mlp.up_proj.weight' is not finite";
        assert!(found.ends_with(end), "{found}");
    }

    #[test]
    fn a_row_that_alone_is_no_number_is_named() {
        let config = config(Family::Llama);
        let mut decoder = random_decoder(&config, Isa::detect());
        let mut data = data(config.vocab_size);
        // A token that no other row has.
        let rare = config.vocab_size - 1;
        data.all[2].tokens[4] = rare as u32;
        let embed = decoder.layout.embed;
        decoder.weights.get_mut(embed)[rare * config.hidden_size] = f32::INFINITY;
        let (_, found) = blame(&mut FullCore { decoder }, &data);
        assert!(found.starts_with(", on its own for row "), "{found}");
        assert!(
            found.contains(" from data/rows.jsonl:2, first in"),
            "{found}"
        );
        let end = "model.embed_tokens, whose weight 'model.embed_tokens.weight' is not finite";
        assert!(found.ends_with(end), "{found}");
    }

    #[test]
    fn a_gradient_that_is_no_number_is_named_where_it_began() {
        let config = config(Family::Llama);
        let decoder = random_decoder(&config, Isa::detect());
        let mut lora = random_lora(&config, 0.0);
        let pair = lora.pair(1, super::super::layout::Slot::Gate).unwrap();
        lora.tensors.get_mut(pair.a).fill(0.0);
        lora.tensors.get_mut(pair.b).fill(1e30);
        let mut core = LoraCore { decoder, lora };
        let (gradient, found) = blame(&mut core, &data(config.vocab_size));
        let name = "base_model.model.model.layers.1.mlp.gate_proj.lora_A.weight";
        assert_eq!(gradient.as_deref(), Some(name));
        assert!(found.contains("every row of the step"), "{found}");
        assert!(
            !found.contains("first in"),
            "its outputs are numbers: {found}"
        );
    }
}
