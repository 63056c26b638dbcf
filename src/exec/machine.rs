//! What this machine has to hand out, and how a step is told of its share.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::admit::Capacity;
use super::descriptors;
use crate::step::{Grant, processors};

/// What the user says about the machine; the rest is found out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// How many steps may run at once.
    pub jobs: usize,
    /// Processors.
    pub cpus: Option<u32>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// The ids of GPUs.
    pub gpus: Option<Vec<String>>,
    /// Other sizes of pools than the pipeline file gives.
    pub pools: BTreeMap<String, u64>,
}

/// What there is.
#[derive(Debug)]
pub(super) struct Machine {
    /// To hand out.
    pub capacity: Capacity,
    /// The most threads that make sense.
    threads: u32,
    /// How CUDA is to count the GPUs that the ids name.
    order: Option<String>,
    /// What a person should know.
    pub warning: Option<String>,
}

impl Machine {
    /// Looks at the machine, at its GPUs only for a run that asks for some.
    /// `environment` is this process's.
    pub(super) fn look(
        limits: &Limits,
        mut pools: BTreeMap<String, u64>,
        with_gpus: bool,
        environment: &BTreeMap<String, String>,
    ) -> Self {
        let cores = processors() as u32;
        let threads = limits.cpus.unwrap_or(cores).max(1);
        let (gpus, order) = match (&limits.gpus, with_gpus) {
            (_, false) => (Vec::new(), None),
            (Some(ids), true) => (ids.clone(), Some(PCI.to_owned())),
            (None, true) => gpus(environment),
        };
        pools.extend(limits.pools.clone());
        // More steps at once than there are cores is what the user asked for.
        let asked = limits.jobs.max(1);
        let files = descriptors::jobs().filter(|(_, most)| *most < asked);
        let jobs = files.map_or(asked, |(_, most)| most);
        let warning = files.map(|(files, most)| {
            format!("not more than {most} steps run at once: this process may have {files} files open (`ulimit -n`)")
        });
        let cpus = limits.cpus.unwrap_or(cores.max(jobs as u32)).max(1);
        let memory = limits.memory.or_else(memory).unwrap_or(u64::MAX);
        Machine {
            capacity: Capacity {
                jobs,
                cpus,
                memory,
                gpus,
                pools,
            },
            threads,
            order,
            warning,
        }
    }

    /// The threads of a step.
    pub(super) fn threads(&self, grant: &Grant) -> usize {
        grant.cpus.min(self.threads) as usize
    }

    /// The variables that tell a step of its GPUs. A step that asked for no
    /// GPU sees none.
    pub(super) fn variables(&self, grant: &Grant) -> BTreeMap<String, String> {
        let mut variables = visible_gpus(&grant.gpus);
        if let Some(order) = self.order.as_ref().filter(|_| !grant.gpus.is_empty()) {
            variables.insert("CUDA_DEVICE_ORDER".to_owned(), order.clone());
        }
        variables
    }
}

/// The variables that let a step see these GPUs alone.
pub fn visible_gpus(ids: &[String]) -> BTreeMap<String, String> {
    ["CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"]
        .map(|name| (name.to_owned(), ids.join(",")))
        .into()
}

/// The order in which `nvidia-smi` counts; CUDA puts the fastest first.
const PCI: &str = "PCI_BUS_ID";

/// The ids of the GPUs, and in which order they are counted: those this process
/// was given, or else all.
fn gpus(environment: &BTreeMap<String, String>) -> (Vec<String>, Option<String>) {
    for name in [
        "CUDA_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
    ] {
        if let Some(list) = environment.get(name) {
            return (given(list), environment.get("CUDA_DEVICE_ORDER").cloned());
        }
    }
    let pci = Some(PCI.to_owned());
    if let Some(ids) = nvidia_smi() {
        return (ids, pci);
    }
    let count = match entries(Path::new("/proc/driver/nvidia/gpus")) {
        0 => amd(Path::new("/sys/class/kfd/kfd/topology/nodes")),
        n => n,
    };
    ((0..count).map(|n| n.to_string()).collect(), pci)
}

/// The ids of a list as CUDA reads it: up to the first that is not valid.
fn given(list: &str) -> Vec<String> {
    let ids = list.split(',').map(str::trim);
    ids.take_while(|id| !id.is_empty() && !id.starts_with('-'))
        .map(str::to_owned)
        .collect()
}

fn nvidia_smi() -> Option<Vec<String>> {
    let mut command = Command::new("nvidia-smi");
    command.args(["--query-gpu=index", "--format=csv,noheader"]);
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    let ids: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    let number = |id: &String| id.parse::<u32>().is_ok();
    (!ids.is_empty() && ids.iter().all(number)).then_some(ids)
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

/// Nodes of AMD's driver that are GPUs: processors have no such units.
fn amd(nodes: &Path) -> usize {
    let nodes = std::fs::read_dir(nodes).into_iter().flatten().flatten();
    let is_gpu = |text: String| {
        let units = text
            .lines()
            .find_map(|line| line.strip_prefix("simd_count "));
        units.is_some_and(|units| units.trim() != "0")
    };
    nodes
        .filter_map(|node| std::fs::read_to_string(node.path().join("properties")).ok())
        .filter(|text| is_gpu(text.clone()))
        .count()
}

/// The memory of the machine or, where that is less, of this process's group;
/// none where the system does not say.
fn memory() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let groups = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let limit = |path: &&str| {
        std::fs::read_to_string(path)
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    let limits = groups.iter().filter_map(limit);
    limits.chain([kib * 1024]).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(limits: &Limits, environment: &[(&str, &str)]) -> Machine {
        let environment = environment.iter();
        let environment = environment.map(|(name, value)| ((*name).into(), (*value).into()));
        let pools = [("disk".to_owned(), 1)].into();
        Machine::look(limits, pools, true, &environment.collect())
    }

    #[test]
    fn what_the_user_says_holds() {
        let limits = Limits {
            jobs: 3,
            cpus: Some(7),
            memory: Some(1000),
            gpus: Some(vec!["0".into(), "GPU-1".into()]),
            pools: [("disk".to_owned(), 5)].into(),
        };
        let Machine {
            capacity,
            threads,
            order,
            ..
        } = look(&limits, &[]);
        assert_eq!(
            (capacity.jobs, capacity.cpus, capacity.memory),
            (3, 7, 1000)
        );
        assert_eq!(capacity.gpus, ["0", "GPU-1"]);
        assert_eq!(capacity.pools["disk"], 5);
        assert_eq!((threads, order.as_deref()), (7, Some("PCI_BUS_ID")));
    }

    #[test]
    fn only_the_gpus_that_this_process_was_given_are_handed_out() {
        let ids = |list| {
            look(&Limits::default(), &[("CUDA_VISIBLE_DEVICES", list)])
                .capacity
                .gpus
        };
        assert_eq!(ids("2, 3"), ["2", "3"]);
        assert_eq!(ids("GPU-8932f937,MIG-1"), ["GPU-8932f937", "MIG-1"]);
        assert_eq!(ids("1,-1,2"), ["1"]);
        assert!(ids("").is_empty() && ids("-1").is_empty());
    }

    #[test]
    fn more_jobs_than_cores_do_not_make_more_threads() {
        let many = Limits {
            jobs: 1000,
            ..Limits::default()
        };
        let machine = look(&many, &[]);
        assert_eq!(machine.capacity.cpus, 1000);
        let all = Grant {
            cpus: 1000,
            ..Grant::default()
        };
        assert_eq!(machine.threads(&all), processors());
    }

    #[test]
    fn a_step_is_told_of_its_share_alone() {
        let limits = Limits {
            gpus: Some(vec!["0".into(), "1".into()]),
            ..Limits::default()
        };
        let machine = look(&limits, &[]);
        let none = machine.variables(&Grant {
            cpus: 1,
            ..Grant::default()
        });
        assert_eq!(none["CUDA_VISIBLE_DEVICES"], "");
        assert!(!none.contains_key("CUDA_DEVICE_ORDER"));
        let one = Grant {
            cpus: 1,
            gpus: vec!["1".into()],
            ..Grant::default()
        };
        let one = machine.variables(&one);
        assert_eq!(one["CUDA_VISIBLE_DEVICES"], "1");
        assert_eq!(one["HIP_VISIBLE_DEVICES"], "1");
        assert_eq!(one["CUDA_DEVICE_ORDER"], "PCI_BUS_ID");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_memory() {
        assert!(memory().unwrap() > 1 << 26);
    }
}
