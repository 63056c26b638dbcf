//! The expanded graph of a pipeline file, kept under `cache/graphs/` so that a build that changes nothing need not parse TOML.
//!
//! Format 4: the line `retune graph 4`, the digest of everything that the
//! graph was made from, the graph ([`Graph::to_bytes`]), and the first eight
//! bytes of the blake3 of all that. A file that does not match in every respect
//! is not there: the pipeline is parsed again and the file replaced. (Format 1
//! had no settings of steps and no pools; of format 2, which had no
//! `hard_links`, no part could be read; 3 had checkpoints by time alone.)

use std::path::{Path, PathBuf};

use crate::files::{self, Stat};
use crate::graph::Graph;
use crate::hash::{Digest, Encoder};
use crate::pipeline::{Overrides, StepName};
use crate::step::Registry;

const MAGIC: &[u8] = b"retune graph 4\n";

/// The place of one pipeline's graph, and what the graph must have been made from.
pub(super) struct GraphCache {
    file: PathBuf,
    made_from: Digest,
}

impl GraphCache {
    /// The cached graph of the pipeline file `path`, whose text has the digest
    /// `text`, in the store's folder `cache`; none where this program cannot
    /// tell itself from another one.
    pub(super) fn new(cache: &Path, identity: &Identity<'_>, text: &Digest) -> Option<Self> {
        Self::at(cache, identity.path, identity.with_text(text)?)
    }

    /// The cached graph of the pipeline file `path`, made from this.
    pub(super) fn at(cache: &Path, path: &str, made_from: Digest) -> Option<Self> {
        let stem = Path::new(path).file_stem()?;
        let file = cache.join("graphs").join(stem);
        Some(GraphCache { file, made_from })
    }

    /// The digest of everything that the graph is made from.
    pub(super) fn made_from(&self) -> Digest {
        self.made_from
    }

    /// The graph, if it is there, whole, and made from the same.
    pub(super) fn read(&self) -> Option<Graph> {
        self.read_with(Graph::from_bytes)
    }

    /// Of the graph what a change of the named steps may reach, see
    /// [`Graph::part_from_bytes`].
    pub(super) fn read_part(&self, named: &[StepName]) -> Option<Graph> {
        self.read_with(|bytes| Graph::part_from_bytes(bytes, named))
    }

    fn read_with(&self, read: impl FnOnce(&[u8]) -> Option<Graph>) -> Option<Graph> {
        let bytes = std::fs::read(&self.file).ok()?;
        let (body, check) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
        let graph = body.strip_prefix(MAGIC)?;
        let graph = graph.strip_prefix(self.made_from.as_bytes())?;
        if Digest::of(body).prefix().to_le_bytes() != check {
            return None;
        }
        read(graph)
    }

    /// Keeps a graph that was made without a warning; false where there is no
    /// store yet. Where it cannot be written to, the graph is merely not kept.
    pub(super) fn write(&self, graph: &Graph) -> bool {
        let store = self.file.parent().and_then(Path::parent);
        if !store.is_some_and(Path::is_dir) {
            return false;
        }
        let Some(graph) = graph.to_bytes() else {
            return true;
        };
        let mut bytes = Vec::with_capacity(MAGIC.len() + 32 + graph.len() + 8);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(self.made_from.as_bytes());
        bytes.extend_from_slice(&graph);
        let check = Digest::of(&bytes).prefix();
        bytes.extend_from_slice(&check.to_le_bytes());
        let _ = files::write_cache(&self.file, &bytes);
        true
    }
}

/// This program's file: another build of it may expand a pipeline to another
/// graph, and any rebuild or upgrade replaces the file.
fn own_program() -> Option<Stat> {
    let path = std::env::current_exe().ok()?;
    Stat::of(&std::fs::canonicalize(path).ok()?).ok()
}

/// Everything that a graph is made from besides the pipeline file's text.
pub(super) struct Identity<'a> {
    /// The pipeline file.
    pub path: &'a str,
    pub overrides: &'a Overrides,
    pub registry: &'a Registry,
}

impl Identity<'_> {
    /// The digest of everything that a graph is made from; none where this
    /// program cannot tell itself from another one.
    pub(super) fn with_text(&self, text: &Digest) -> Option<Digest> {
        Some(self.made_from(text, &own_program()?))
    }

    fn made_from(&self, text: &Digest, program: &Stat) -> Digest {
        let mut encoder = Encoder::new("retune graph");
        for n in [program.dev, program.ino, program.size] {
            encoder.u64(n);
        }
        encoder.bytes(&program.mtime_ns.to_le_bytes());
        encoder.list(self.registry.iter().count());
        for kind in self.registry.iter() {
            encoder.str(kind.name()).u64(kind.version().into());
        }
        encoder.str(self.path).digest(text);
        encoder.list(self.overrides.set.len());
        for (path, value) in &self.overrides.set {
            encoder.str(path).str(value);
        }
        encoder.list(self.overrides.env.len());
        for (name, value) in &self.overrides.env {
            encoder.str(name).str(value);
        }
        encoder.digest_of()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{InputRef, Node, Origin, StepId};
    use crate::pipeline::Source;
    use crate::step::{Context, FieldError, InPort, OutPort, PortType, Step, StepError};
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    /// A kind in two versions.
    struct Copy<const VERSION: u32>;

    #[derive(Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Params {
        /// How often.
        #[serde(default)]
        times: u32,
        /// A float must come through as it is.
        #[serde(default)]
        rate: Option<f64>,
    }

    impl<const V: u32> Step for Copy<V> {
        type Params = Params;
        const KIND: &'static str = "copy";
        const VERSION: u32 = V;
        const ABOUT: &'static str = "Copies.";

        fn inputs() -> Vec<InPort> {
            vec![InPort::one("from", PortType::File, "what to copy")]
        }

        fn outputs(_: &Params) -> Vec<OutPort> {
            vec![OutPort::new("copy", PortType::File, "copy")]
        }

        fn check(_: &Params) -> Result<(), FieldError> {
            Ok(())
        }

        fn run(_: &Params, _: &mut Context<'_>) -> Result<(), StepError> {
            Ok(())
        }
    }

    fn registry<const V: u32>() -> Registry {
        let mut registry = Registry::new();
        registry.add::<Copy<V>>();
        registry
    }

    const TEXT: &str = "[steps.a]\nuses = 'copy'\nfrom = 'x'\nrate = 5e-5\n\
                        [steps.b]\nuses = 'copy'\nfrom = '@a'\ntimes = 1\n";

    fn source(text: &str) -> Source {
        Source {
            path: "pipelines/p.toml".into(),
            text: text.to_owned(),
        }
    }

    fn identity<'a>(overrides: &'a Overrides, registry: &'a Registry) -> Identity<'a> {
        Identity {
            path: "pipelines/p.toml",
            overrides,
            registry,
        }
    }

    fn set(value: &str) -> Overrides {
        Overrides {
            set: vec![("steps.a.times".into(), value.into())],
            ..Overrides::default()
        }
    }

    struct Space {
        folder: tempfile::TempDir,
        graph: Graph,
    }

    impl Space {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let none = Overrides::default();
            let (graph, warnings) = Graph::load(source(TEXT), &none, &registry::<1>()).unwrap();
            assert!(warnings.list.is_empty());
            let space = Space { folder, graph };
            space.of(TEXT, &none, &registry::<1>()).write(&space.graph);
            space
        }

        fn of(&self, text: &str, overrides: &Overrides, registry: &Registry) -> GraphCache {
            let identity = identity(overrides, registry);
            GraphCache::new(self.folder.path(), &identity, &Digest::of(text.as_bytes())).unwrap()
        }

        fn same(&self) -> GraphCache {
            self.of(TEXT, &Overrides::default(), &registry::<1>())
        }
    }

    #[test]
    fn a_kept_graph_is_the_graph() {
        let space = Space::new();
        assert_eq!(space.same().read(), Some(space.graph));
    }

    /// Steps of which each copies an earlier one or a file, into a folder of
    /// its own every now and then.
    fn random_text(numbers: &[u32]) -> String {
        let step = |(at, &n): (usize, &u32)| {
            let from = match at as u32 {
                earlier if earlier > 0 && n % 4 > 0 => format!("@s{}", n / 4 % earlier),
                _ => format!("in/{n}"),
            };
            let out = match n % 7 {
                0 => format!("out = 'kept/s{at}'\n"),
                _ => String::new(),
            };
            format!("[steps.s{at}]\nuses = 'copy'\nfrom = '{from}'\ntimes = {n}\n{out}")
        };
        numbers.iter().enumerate().map(step).collect()
    }

    proptest::proptest! {
        #[test]
        fn a_part_says_of_its_steps_what_the_whole_says(
            numbers in proptest::collection::vec(0u32..1000, 1..30),
            changed in proptest::collection::vec(0usize..30, 1..4),
        ) {
            let none = Overrides::default();
            let (whole, _) = Graph::load(source(&random_text(&numbers)), &none, &registry::<1>()).unwrap();
            let bytes = whole.to_bytes().unwrap();
            assert_eq!(Graph::from_bytes(&bytes).as_ref(), Some(&whole));
            let changed = changed.iter().map(|at| at % numbers.len());
            let changed: Vec<StepName> = changed.map(|at| whole.nodes[at].name.clone()).collect();
            let part = Graph::part_from_bytes(&bytes, &changed).unwrap();
            let cone = |graph: &Graph| {
                let ids = changed.iter().map(|name| graph.find(name).unwrap());
                let cone = graph.cone(ids.collect::<Vec<_>>());
                let order = graph.order().iter().copied();
                order.filter(|id| cone.contains(*id)).collect::<Vec<_>>()
            };
            let reached = cone(&whole);
            let names = |graph: &Graph, ids: &[StepId]| {
                let name = |id: &StepId| graph.node(*id).name.clone();
                ids.iter().map(name).collect::<Vec<_>>()
            };
            assert_eq!(names(&part, &cone(&part)), names(&whole, &reached));
            for id in reached {
                let (here, there) = (whole.node(id), part.find(&whole.node(id).name).unwrap());
                assert_eq!(names(&part, part.dependencies(there)), names(&whole, whole.dependencies(id)));
                assert_eq!(names(&part, part.dependents(there)), names(&whole, whole.dependents(id)));
                let from = |graph: &Graph, input: &InputRef| match &input.from {
                    Origin::Step { step, output } => {
                        (graph.node(*step).name.to_string(), graph.node(*step).outputs[*output].clone())
                    }
                    other => (format!("{other:?}"), OutPort::new("none", PortType::File, "none")),
                };
                let same = here.inputs.iter().map(|input| from(&whole, input));
                assert!(same.eq(part.node(there).inputs.iter().map(|input| from(&part, input))));
                let bare = |node: &Node| Node { inputs: Vec::new(), ..node.clone() };
                assert_eq!(bare(part.node(there)), bare(here));
            }
            assert_eq!((&part.outs, &part.pools), (&whole.outs, &whole.pools));
            let unknown = [changed[0].clone(), "x".parse().unwrap()];
            assert_eq!(Graph::part_from_bytes(&bytes, &unknown), None);
        }
    }

    #[test]
    fn another_text_is_another_graph() {
        let space = Space::new();
        let none = Overrides::default();
        let edited = TEXT.replace("5e-5", "6e-5");
        assert_eq!(space.of(&edited, &none, &registry::<1>()).read(), None);
    }

    #[test]
    fn an_override_is_another_graph() {
        let space = Space::new();
        assert_eq!(space.of(TEXT, &set("2"), &registry::<1>()).read(), None);
        let variable = Overrides {
            env: [("RETUNE_STEPS__A__TIMES".into(), "2".into())].into(),
            ..Overrides::default()
        };
        assert_eq!(space.of(TEXT, &variable, &registry::<1>()).read(), None);
        let two = space.of(TEXT, &set("2"), &registry::<1>()).made_from;
        let three = space.of(TEXT, &set("3"), &registry::<1>()).made_from;
        assert_ne!(two, three);
    }

    #[test]
    fn another_version_of_a_kind_or_of_the_program_is_another_graph() {
        let space = Space::new();
        let none = Overrides::default();
        assert_eq!(space.of(TEXT, &none, &registry::<2>()).read(), None);
        let program = own_program().unwrap();
        let rebuilt = Stat {
            mtime_ns: program.mtime_ns + 1,
            ..program
        };
        let registry = registry::<1>();
        let text = Digest::of(TEXT.as_bytes());
        let of = |program| identity(&none, &registry).made_from(&text, program);
        assert_ne!(of(&program), of(&rebuilt));
    }

    #[test]
    fn a_damaged_file_is_no_graph() {
        let space = Space::new();
        let cache = space.same();
        let good = std::fs::read(&cache.file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&cache.file, &bad).unwrap();
            assert_eq!(cache.read(), None, "flipped byte {at}");
            std::fs::write(&cache.file, &good[..at]).unwrap();
            assert_eq!(cache.read(), None, "cut at {at}");
        }
        std::fs::remove_file(&cache.file).unwrap();
        assert_eq!(cache.read(), None);
    }
}
