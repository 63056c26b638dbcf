//! Admission: which waiting step may start next, and what it is given. Pure: no clock, no system.
//!
//! Steps go by rank. One that does not fit waits for what it lacks, and others
//! may fill the gap meanwhile; but only [`OVERTAKEN`] times may one start that
//! takes away what it waits for. After that nothing that could delay it starts
//! before it, so that running steps drain until it fits.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::step::{Cpus, Gpus, Grant, Resources};

/// How often a waiting step may be delayed by one of a lower rank.
pub(super) const OVERTAKEN: u32 = 8;

/// What there is to hand out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    /// How many steps may run at once.
    pub jobs: usize,
    /// Processors.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// The ids of the GPUs.
    pub gpus: Vec<String>,
    /// The pools and their sizes.
    pub pools: BTreeMap<String, u64>,
}

impl Capacity {
    /// What is asked for and can never be had: each as `4 gpus, but there are 2`.
    pub fn lacks(&self, asked: &Resources) -> Vec<String> {
        let mut lacks = Vec::new();
        if let Cpus::Count(cpus) = asked.cpus
            && cpus > self.cpus
        {
            lacks.push(format!("{cpus} cpus, but there are {}", self.cpus));
        }
        if asked.memory > self.memory {
            let (asked, there) = (gib(asked.memory), gib(self.memory));
            lacks.push(format!("{asked} of memory, but there is {there}"));
        }
        let gpus = self.gpus.len();
        if u64::from(asked.gpus.thousandths()) > gpus as u64 * u64::from(Gpus::ONE) {
            let plural = if asked.gpus.thousandths() == Gpus::ONE {
                ""
            } else {
                "s"
            };
            let there = match gpus {
                0 => "there is none".to_owned(),
                1 => "there is 1".to_owned(),
                n => format!("there are {n}"),
            };
            lacks.push(format!("{} gpu{plural}, but {there}", asked.gpus));
        }
        for (pool, n) in &asked.pools {
            let there = self.pools.get(pool).copied().unwrap_or(0);
            if *n > there {
                lacks.push(format!("{n} of the pool {pool}, but it has {there}"));
            }
        }
        lacks
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// Which of two waiting steps goes first: the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// As the pipeline file says.
    pub priority: i32,
    /// How long the way from it to the end of the graph takes.
    pub weight: u64,
    /// Its place in the order of the graph.
    pub order: Reverse<usize>,
}

/// What a step asks for, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    cpus: u32,
    memory: u64,
    gpus: Gpus,
    pools: BTreeMap<String, u64>,
}

/// Steps that wait and ask for the same.
#[derive(Debug)]
struct Class<I> {
    request: Request,
    steps: BinaryHeap<(Rank, I)>,
    /// How often its first was delayed by a step of a lower rank.
    overtaken: u32,
}

/// What is free.
#[derive(Debug)]
struct Free {
    jobs: usize,
    cpus: u32,
    memory: u64,
    /// Of each GPU, in thousandths.
    gpus: Vec<u32>,
    pools: BTreeMap<String, u64>,
}

/// What a step has.
#[derive(Debug)]
struct Taken {
    request: Request,
    gpus: Vec<usize>,
}

/// Who waits, and who has what.
#[derive(Debug)]
pub(super) struct Admission<I> {
    total: Capacity,
    free: Free,
    classes: Vec<Class<I>>,
    index: BTreeMap<Request, usize>,
    /// The first of every class, by rank.
    heads: BTreeSet<(Reverse<Rank>, usize)>,
    taken: BTreeMap<I, Taken>,
}

impl<I: Copy + Ord> Admission<I> {
    pub(super) fn new(total: Capacity) -> Self {
        Admission {
            free: Free {
                jobs: total.jobs,
                cpus: total.cpus,
                memory: total.memory,
                gpus: vec![Gpus::ONE; total.gpus.len()],
                pools: total.pools.clone(),
            },
            total,
            classes: Vec::new(),
            index: BTreeMap::new(),
            heads: BTreeSet::new(),
            taken: BTreeMap::new(),
        }
    }

    /// A step waits from now on. What it asks for beyond all that there is, it
    /// does without: callers refuse such steps before.
    pub(super) fn offer(&mut self, step: I, rank: Rank, asked: &Resources) {
        let request = self.request(asked);
        let class = *self.index.entry(request).or_insert_with_key(|request| {
            self.classes.push(Class {
                request: request.clone(),
                steps: BinaryHeap::new(),
                overtaken: 0,
            });
            self.classes.len() - 1
        });
        self.unlist(class);
        self.classes[class].steps.push((rank, step));
        self.list(class);
    }

    /// The next step to start, if one may, and what it is given.
    pub(super) fn next(&mut self) -> Option<(I, Grant)> {
        if self.free.jobs == 0 || self.free.cpus == 0 {
            return None;
        }
        let (class, delayed) = self.choose()?;
        for class in delayed {
            self.classes[class].overtaken += 1;
        }
        self.unlist(class);
        let (_, step) = self.classes[class].steps.pop()?;
        self.classes[class].overtaken = 0;
        self.list(class);
        let request = self.classes[class].request.clone();
        let gpus = self.free.take(&request);
        let grant = self.grant(&request, &gpus);
        self.taken.insert(step, Taken { request, gpus });
        Some((step, grant))
    }

    /// The class whose first step is to start, and those it delays.
    fn choose(&self) -> Option<(usize, Vec<usize>)> {
        let mut before: Vec<usize> = Vec::new();
        for (_, class) in &self.heads {
            let request = &self.classes[*class].request;
            if self.free.fits(request) {
                let delays = |other: &&usize| {
                    let other = &self.classes[**other].request;
                    self.free.delays(request, other)
                };
                let delayed: Vec<usize> = before.iter().filter(delays).copied().collect();
                let patient = |class: &usize| self.classes[*class].overtaken < OVERTAKEN;
                if delayed.iter().all(patient) {
                    return Some((*class, delayed));
                }
            }
            before.push(*class);
        }
        None
    }

    /// A step has ended, or does not start after all.
    pub(super) fn release(&mut self, step: I) {
        if let Some(taken) = self.taken.remove(&step) {
            self.free.give_back(&taken);
        }
    }

    fn request(&self, asked: &Resources) -> Request {
        let cpus = match asked.cpus {
            Cpus::Count(cpus) => cpus.clamp(1, self.total.cpus),
            Cpus::All => self.total.cpus,
        };
        Request {
            cpus,
            memory: asked.memory.min(self.total.memory),
            gpus: asked.gpus,
            pools: asked.pools.clone(),
        }
    }

    fn grant(&self, request: &Request, gpus: &[usize]) -> Grant {
        let share = request.gpus.share();
        Grant {
            cpus: request.cpus,
            memory: request.memory,
            gpus: gpus.iter().map(|&i| self.total.gpus[i].clone()).collect(),
            gpu_share: (share > 0).then(|| f64::from(share) / f64::from(Gpus::ONE)),
            pools: request.pools.clone(),
        }
    }

    fn list(&mut self, class: usize) {
        if let Some((rank, _)) = self.classes[class].steps.peek() {
            self.heads.insert((Reverse(*rank), class));
        }
    }

    fn unlist(&mut self, class: usize) {
        if let Some((rank, _)) = self.classes[class].steps.peek() {
            self.heads.remove(&(Reverse(*rank), class));
        }
    }
}

impl Free {
    fn fits(&self, request: &Request) -> bool {
        self.jobs > 0
            && request.cpus <= self.cpus
            && request.memory <= self.memory
            && self.fits_gpus(request.gpus)
            && request.pools.iter().all(|(pool, n)| *n <= self.pool(pool))
    }

    fn pool(&self, name: &str) -> u64 {
        self.pools.get(name).copied().unwrap_or(0)
    }

    fn fits_gpus(&self, gpus: Gpus) -> bool {
        let whole = self.gpus.iter().filter(|free| **free == Gpus::ONE).count();
        match gpus.share() {
            0 => gpus.whole() <= whole,
            share => self.gpus.iter().any(|free| share <= *free),
        }
    }

    /// Whether starting one step takes away something that another one, which
    /// cannot start now, will need: what it lacks, or what it has enough of.
    /// Places of running steps do not count: whoever gives back what the other
    /// lacks gives back a place with it.
    fn delays(&self, request: &Request, other: &Request) -> bool {
        let takes = |free: u64, mine: u64, its: u64| mine > 0 && its > 0 && free < mine + its;
        let pools = request.pools.iter();
        takes(self.cpus.into(), request.cpus.into(), other.cpus.into())
            || takes(self.memory, request.memory, other.memory)
            || self.delays_gpus(request.gpus, other.gpus)
            || pools.into_iter().any(|(pool, mine)| {
                let its = other.pools.get(pool).copied().unwrap_or(0);
                takes(self.pool(pool), *mine, its)
            })
    }

    fn delays_gpus(&self, mine: Gpus, its: Gpus) -> bool {
        if mine.is_none() || its.is_none() {
            return false;
        }
        let mut left = Free {
            pools: BTreeMap::new(),
            gpus: self.gpus.clone(),
            ..*self
        };
        left.take_gpus(mine);
        !left.fits_gpus(its)
    }

    fn take(&mut self, request: &Request) -> Vec<usize> {
        self.jobs -= 1;
        self.cpus -= request.cpus;
        self.memory -= request.memory;
        for (pool, n) in &request.pools {
            if let Some(free) = self.pools.get_mut(pool) {
                *free -= n;
            }
        }
        self.take_gpus(request.gpus)
    }

    /// Whole GPUs: the first that are free. A share: of the GPU with the least
    /// left that is enough, so that others stay whole.
    fn take_gpus(&mut self, gpus: Gpus) -> Vec<usize> {
        let free = self.gpus.iter().enumerate();
        let (chosen, each): (Vec<usize>, u32) = match gpus.share() {
            0 => {
                let whole = free.filter(|(_, free)| **free == Gpus::ONE);
                let chosen = whole.take(gpus.whole()).map(|(i, _)| i);
                (chosen.collect(), Gpus::ONE)
            }
            share => {
                let enough = free.filter(|(_, free)| share <= **free);
                let chosen = enough.min_by_key(|(_, free)| **free);
                (chosen.map(|(i, _)| i).into_iter().collect(), share)
            }
        };
        for &i in &chosen {
            self.gpus[i] -= each;
        }
        chosen
    }

    fn give_back(&mut self, taken: &Taken) {
        let Taken { request, gpus } = taken;
        self.jobs += 1;
        self.cpus += request.cpus;
        self.memory += request.memory;
        for (pool, n) in &request.pools {
            if let Some(free) = self.pools.get_mut(pool) {
                *free += n;
            }
        }
        let each = match request.gpus.share() {
            0 => Gpus::ONE,
            share => share,
        };
        for &i in gpus {
            self.gpus[i] += each;
        }
    }
}

#[cfg(test)]
#[path = "admit_tests.rs"]
mod tests;
