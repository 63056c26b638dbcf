//! Folding: the cells of a matrix, and other steps that are alike, as one box.

use std::collections::{BTreeMap, BTreeSet};

use super::Diagram;

/// Steps drawn as one box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// The steps, by index.
    pub steps: Vec<usize>,
    /// What it is called.
    pub name: String,
}

/// The boxes of a drawing and the lines between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grouped {
    pub groups: Vec<Group>,
    pub edges: Vec<(usize, usize)>,
}

/// Every step a box.
pub(super) fn apart(diagram: &Diagram) -> Grouped {
    let group = |(i, step): (usize, &super::Step)| Group {
        steps: vec![i],
        name: step.name.clone(),
    };
    Grouped {
        groups: diagram.steps.iter().enumerate().map(group).collect(),
        edges: diagram.edges.clone(),
    }
}

/// At least `least` steps of the same kind and of names that differ only in
/// numbers, or in the cell of their matrix, are one box: those that are
/// equally deep in the graph, and those that form a chain. Neither can make a
/// cycle.
pub(super) fn folded(diagram: &Diagram, least: usize) -> Grouped {
    let alike: Vec<(&str, String)> = diagram
        .steps
        .iter()
        .map(|step| (step.kind.as_str(), stem(&step.name)))
        .collect();
    let side_by_side = fold_levels(diagram, &alike, least);
    let folded = fold_chains(&side_by_side, &alike, least);
    name(folded, diagram)
}

/// The name without its cell, or with `*` for every number.
fn stem(name: &str) -> String {
    if let Some((base, _)) = name.split_once('[') {
        return format!("{base}[…]");
    }
    let mut stem = String::new();
    let mut number = false;
    for c in name.chars() {
        if !c.is_ascii_digit() {
            stem.push(c);
        } else if !number {
            stem.push('*');
        }
        number = c.is_ascii_digit();
    }
    stem
}

fn levels(diagram: &Diagram) -> Vec<usize> {
    let mut after = vec![Vec::new(); diagram.steps.len()];
    for &(from, to) in &diagram.edges {
        after[from].push(to);
    }
    let mut levels = vec![0; diagram.steps.len()];
    // Each step stands after those it needs.
    for v in 0..after.len() {
        for &w in &after[v] {
            levels[w] = levels[w].max(levels[v] + 1);
        }
    }
    levels
}

type Alike<'a> = [(&'a str, String)];

fn fold_levels(diagram: &Diagram, alike: &Alike<'_>, least: usize) -> Vec<(Vec<usize>, Links)> {
    let mut classes: BTreeMap<(usize, &(&str, String)), Vec<usize>> = BTreeMap::new();
    for (i, level) in levels(diagram).into_iter().enumerate() {
        classes.entry((level, &alike[i])).or_default().push(i);
    }
    let mut sets: Vec<Vec<usize>> = Vec::new();
    for steps in classes.into_values() {
        match steps.len() >= least {
            true => sets.push(steps),
            false => sets.extend(steps.into_iter().map(|step| vec![step])),
        }
    }
    sets.sort();
    link(sets, diagram)
}

/// What a box needs, and what needs it, by index.
#[derive(Debug, Clone, Default)]
struct Links {
    up: BTreeSet<usize>,
    down: BTreeSet<usize>,
}

fn link(sets: Vec<Vec<usize>>, diagram: &Diagram) -> Vec<(Vec<usize>, Links)> {
    let mut of = vec![0; diagram.steps.len()];
    for (set, steps) in sets.iter().enumerate() {
        steps.iter().for_each(|&step| of[step] = set);
    }
    let mut links = vec![Links::default(); sets.len()];
    for &(from, to) in &diagram.edges {
        let (from, to) = (of[from], of[to]);
        if from != to {
            links[from].down.insert(to);
            links[to].up.insert(from);
        }
    }
    sets.into_iter().zip(links).collect()
}

/// Joins steps in a row, each of which only the next one needs.
fn fold_chains(sets: &[(Vec<usize>, Links)], alike: &Alike<'_>, least: usize) -> Grouped {
    let only = |set: &BTreeSet<usize>| match set.len() {
        1 => set.first().copied(),
        _ => None,
    };
    let next = |i: usize| {
        let next = only(&sets[i].1.down)?;
        let (a, b) = (&sets[i].0, &sets[next].0);
        let joined = only(&sets[next].1.up) == Some(i);
        let single = a.len() == 1 && b.len() == 1;
        (joined && single && alike[a[0]] == alike[b[0]]).then_some(next)
    };
    let continued: BTreeSet<usize> = (0..sets.len()).filter_map(next).collect();
    let mut of = vec![usize::MAX; sets.len()];
    let mut groups = Vec::new();
    for first in (0..sets.len()).filter(|i| !continued.contains(i)) {
        let chain: Vec<usize> = std::iter::successors(Some(first), |&i| next(i)).collect();
        let parts: Vec<&[usize]> = match chain.len() >= least {
            true => vec![&chain],
            false => chain.chunks(1).collect(),
        };
        for part in parts {
            part.iter().for_each(|&i| of[i] = groups.len());
            groups.push(Group {
                steps: part.iter().flat_map(|&i| sets[i].0.clone()).collect(),
                name: String::new(),
            });
        }
    }
    let mut edges = BTreeSet::new();
    for (i, (_, links)) in sets.iter().enumerate() {
        let across = links.down.iter().map(|&down| (of[i], of[down]));
        edges.extend(across.filter(|(from, to)| from != to));
    }
    Grouped {
        groups,
        edges: edges.into_iter().collect(),
    }
}

fn name(mut grouped: Grouped, diagram: &Diagram) -> Grouped {
    for group in &mut grouped.groups {
        group.name = match &group.steps[..] {
            [only] => diagram.steps[*only].name.clone(),
            steps => common(steps.iter().map(|step| diagram.steps[*step].name.as_str())),
        };
    }
    grouped
}

/// The stem of names, with the numbers that all of them have.
fn common<'a>(mut names: impl Iterator<Item = &'a str>) -> String {
    let first = names.next().unwrap_or_default();
    if first.contains('[') {
        return stem(first);
    }
    let mut common = parts(first);
    for name in names {
        for (part, other) in common.iter_mut().zip(parts(name)) {
            if *part != other {
                *part = "*";
            }
        }
    }
    common.concat()
}

/// A name cut where digits begin and end.
fn parts(name: &str) -> Vec<&str> {
    let digit = |at: usize| name.as_bytes()[at].is_ascii_digit();
    let cuts = (1..name.len()).filter(|&at| digit(at) != digit(at - 1));
    let mut ends: Vec<usize> = cuts.filter(|&at| name.is_char_boundary(at)).collect();
    ends.push(name.len());
    let mut from = 0;
    ends.into_iter()
        .map(|end| &name[std::mem::replace(&mut from, end)..end])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{State, Step};
    use super::*;
    use proptest::prelude::*;

    fn diagram(names: &[String], edges: &[(usize, usize)]) -> Diagram {
        let step = |name: &String| Step {
            name: name.clone(),
            kind: "k".into(),
            state: State::Run,
            time: String::new(),
            critical: false,
            facts: Vec::new(),
        };
        Diagram {
            steps: names.iter().map(step).collect(),
            edges: edges.to_vec(),
            ..Diagram::default()
        }
    }

    fn shape(grouped: &Grouped) -> Vec<(String, usize)> {
        let groups = grouped.groups.iter();
        groups.map(|g| (g.name.clone(), g.steps.len())).collect()
    }

    #[test]
    fn stems() {
        assert_eq!(stem("stage1[lr=1e-4,seed=2]"), "stage1[…]");
        assert_eq!(stem("s012_7"), "s*_*");
        assert_eq!(stem("rows"), "rows");
        assert_eq!(common(["l1_20", "l1_3"].into_iter()), "l1_*");
    }

    #[test]
    fn cells_of_a_matrix_are_one_box() {
        let mut names = vec!["rows".to_owned()];
        names.extend((0..6).map(|n| format!("train[seed={n}]")));
        names.push("all".to_owned());
        let mut edges: Vec<_> = (1..7).map(|n| (0, n)).collect();
        edges.extend((1..7).map(|n| (n, 7)));
        let grouped = folded(&diagram(&names, &edges), 4);
        let expected = [("rows", 1), ("train[…]", 6), ("all", 1)];
        assert_eq!(shape(&grouped), expected.map(|(n, k)| (n.to_owned(), k)));
        assert_eq!(grouped.edges, [(0, 1), (1, 2)]);
    }

    #[test]
    fn a_chain_is_one_box() {
        let names: Vec<String> = (0..100).map(|n| format!("s{n}")).collect();
        let edges: Vec<_> = (1..100).map(|n| (n - 1, n)).collect();
        let grouped = folded(&diagram(&names, &edges), 4);
        assert_eq!(shape(&grouped), [("s*".to_owned(), 100)]);
    }

    proptest! {
        #[test]
        fn folding_loses_no_step_and_makes_no_cycle(
            names in prop::collection::vec("[ab][0-9]", 1..40),
            edges in prop::collection::btree_set((0..40_usize, 0..40_usize), 0..80),
            least in 2..6_usize,
        ) {
            let inside = |&(a, b): &(usize, usize)| a < b && b < names.len();
            let edges: Vec<_> = edges.into_iter().filter(inside).collect();
            let grouped = folded(&diagram(&names, &edges), least);
            let mut steps: Vec<usize> = grouped.groups.iter().flat_map(|g| g.steps.clone()).collect();
            steps.sort_unstable();
            prop_assert_eq!(steps, (0..names.len()).collect::<Vec<_>>());
            let n = grouped.groups.len();
            let mut open = vec![0; n];
            grouped.edges.iter().for_each(|&(_, to)| open[to] += 1);
            let mut ready: Vec<usize> = (0..n).filter(|&v| open[v] == 0).collect();
            let mut done = 0;
            while let Some(v) = ready.pop() {
                done += 1;
                for &(_, to) in grouped.edges.iter().filter(|(from, _)| *from == v) {
                    open[to] -= 1;
                    if open[to] == 0 {
                        ready.push(to);
                    }
                }
            }
            prop_assert_eq!(done, n, "a cycle");
        }
    }
}
