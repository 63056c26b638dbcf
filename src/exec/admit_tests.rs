//! Admission under simulation: never more than there is, ids apart, nobody left waiting.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn capacity(jobs: usize, cpus: u32, gpus: usize) -> Capacity {
    Capacity {
        jobs,
        cpus,
        memory: 100,
        gpus: (0..gpus).map(|n| format!("g{n}")).collect(),
        pools: [("disk".to_owned(), 3)].into(),
    }
}

fn rank(priority: i32, weight: u64, order: usize) -> Rank {
    Rank {
        priority,
        weight,
        order: Reverse(order),
    }
}

fn cpus(cpus: u32) -> Resources {
    Resources {
        cpus: Cpus::Count(cpus),
        ..Resources::default()
    }
}

fn gpus(gpus: f64) -> Resources {
    Resources {
        gpus: Gpus::new(gpus).unwrap(),
        ..Resources::default()
    }
}

fn all(admission: &mut Admission<usize>) -> Vec<usize> {
    std::iter::from_fn(|| admission.next().map(|(step, _)| step)).collect()
}

#[test]
fn priority_then_weight_then_order() {
    let mut admission = Admission::new(capacity(9, 9, 0));
    for (step, priority, weight) in [(0, 0, 1), (1, 0, 5), (2, 1, 0), (3, 0, 5), (4, -1, 99)] {
        admission.offer(step, rank(priority, weight, step), &cpus(1));
    }
    assert_eq!(all(&mut admission), [2, 1, 3, 0, 4]);
}

#[test]
fn no_more_run_than_there_are_places() {
    let mut admission = Admission::new(capacity(2, 9, 0));
    for step in 0..3 {
        admission.offer(step, rank(0, 0, step), &cpus(1));
    }
    assert_eq!(all(&mut admission), [0, 1]);
    admission.release(0);
    assert_eq!(all(&mut admission), [2]);
}

#[test]
fn shares_fill_one_gpu_before_they_break_another() {
    let mut admission = Admission::new(capacity(9, 9, 2));
    for (step, n) in [0.5, 0.25, 0.25, 1.0, 0.1].into_iter().enumerate() {
        admission.offer(step, rank(0, 0, step), &gpus(n));
    }
    let mut given = BTreeMap::new();
    while let Some((step, grant)) = admission.next() {
        given.insert(step, (grant.gpus.concat(), grant.gpu_share));
    }
    let shared = |share| ("g0".to_owned(), Some(share));
    assert_eq!(given[&0], shared(0.5));
    assert_eq!(given[&1], shared(0.25));
    assert_eq!(given[&2], shared(0.25));
    assert_eq!(given[&3], ("g1".to_owned(), None));
    assert!(!given.contains_key(&4), "nothing is left of either");
    admission.release(1);
    assert_eq!(admission.next().unwrap().1.gpus, ["g0"]);
}

#[test]
fn what_a_step_does_not_use_it_does_not_wait_for() {
    let mut admission = Admission::new(capacity(9, 9, 1));
    admission.offer(0, rank(9, 0, 0), &gpus(1.0));
    admission.offer(1, rank(8, 0, 1), &gpus(1.0));
    for step in 2..9 {
        admission.offer(step, rank(0, 0, step), &cpus(1));
    }
    // One processor is kept for the second, which waits for the GPU alone.
    assert_eq!(all(&mut admission), [0, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_stream_of_small_steps_does_not_keep_a_big_one_waiting() {
    let mut admission = Admission::new(capacity(4, 4, 0));
    for step in 0..4 {
        admission.offer(step, rank(0, 0, step), &cpus(1));
    }
    assert_eq!(all(&mut admission).len(), 4);
    admission.offer(1000, rank(0, 1, 1000), &cpus(4));
    let mut overtaken = 0;
    let mut running: std::collections::VecDeque<usize> = (0..4).collect();
    for step in 4.. {
        admission.offer(step, rank(0, 0, step), &cpus(1));
        admission.release(running.pop_front().unwrap());
        let started = all(&mut admission);
        if started == [1000] {
            break;
        }
        overtaken += started.len();
        running.extend(started);
    }
    assert_eq!(overtaken, OVERTAKEN as usize);
}

#[test]
fn what_can_never_be_had_is_named() {
    let capacity = capacity(1, 4, 2);
    let asked = Resources {
        cpus: Cpus::Count(8),
        memory: 3 << 30,
        gpus: Gpus::new(3.0).unwrap(),
        pools: [("disk".to_owned(), 4)].into(),
    };
    assert_eq!(
        capacity.lacks(&asked),
        [
            "8 cpus, but there are 4",
            "3.0 GiB of memory, but there is 0.0 GiB",
            "3 gpus, but there are 2",
            "4 of the pool disk, but it has 3",
        ]
    );
    assert!(capacity.lacks(&Resources::all_cpus()).is_empty());
}

/// A step of a simulated run.
#[derive(Debug, Clone)]
struct Job {
    arrives: u32,
    takes: u32,
    priority: i32,
    weight: u64,
    asked: Resources,
}

prop_compose! {
    fn job(max_cpus: u32, max_gpus: usize)(
        arrives in 0u32..40,
        takes in 1u32..30,
        priority in -1i32..2,
        weight in 0u64..5,
        cpus in 1..=max_cpus,
        all in prop::bool::weighted(0.1),
        memory in 0u64..=100,
        gpu in 0..=max_gpus * 4,
        disk in 0u64..=3,
    ) -> Job {
        // Quarters of a GPU below one, whole ones above.
        let gpus = match gpu {
            0..4 => gpu as f64 / 4.0,
            n => (n / 4) as f64,
        };
        let gpus = if max_gpus == 0 { 0.0 } else { gpus };
        Job {
            arrives, takes, priority, weight,
            asked: Resources {
                cpus: if all { Cpus::All } else { Cpus::Count(cpus) },
                memory,
                gpus: Gpus::new(gpus).unwrap(),
                pools: if disk > 0 { [("disk".to_owned(), disk)].into() } else { BTreeMap::new() },
            },
        }
    }
}

fn scenario() -> impl Strategy<Value = (Capacity, Vec<Job>)> {
    (1usize..6, 1u32..8, 0usize..4).prop_flat_map(|(jobs, cpus, gpus)| {
        let steps = prop::collection::vec(job(cpus, gpus), 1..50);
        steps.prop_map(move |steps| (capacity(jobs, cpus, gpus), steps))
    })
}

/// Adds up what running steps were given and compares it with what there is.
fn check_books(there: &Capacity, running: &BTreeMap<usize, (u32, Grant)>, steps: &[Job]) {
    let grants = || running.values().map(|(_, grant)| grant);
    assert!(running.len() <= there.jobs);
    assert!(grants().map(|g| g.cpus).sum::<u32>() <= there.cpus);
    assert!(grants().map(|g| g.memory).sum::<u64>() <= there.memory);
    let disk = |g: &Grant| g.pools.get("disk").copied().unwrap_or(0);
    assert!(grants().map(disk).sum::<u64>() <= there.pools["disk"]);
    for id in &there.gpus {
        let used = grants().filter(|g| g.gpus.contains(id));
        let used: f64 = used.map(|g| g.gpu_share.unwrap_or(1.0)).sum();
        assert!(used <= 1.0, "{id} is given out {used} times");
    }
    for (step, (_, grant)) in running {
        let asked = steps[*step].asked.gpus;
        let wanted = if asked.share() > 0 { 1 } else { asked.whole() };
        assert_eq!(grant.gpus.len(), wanted);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn everybody_gets_a_turn_and_nothing_is_given_twice((there, steps) in scenario()) {
        let mut admission = Admission::new(there.clone());
        let mut waiting: BTreeMap<usize, u32> = BTreeMap::new();
        let mut running: BTreeMap<usize, (u32, Grant)> = BTreeMap::new();
        let mut started = 0;
        let ranks = |step: usize| rank(steps[step].priority, steps[step].weight, step);
        for now in 0.. {
            for step in (0..steps.len()).filter(|&step| steps[step].arrives == now) {
                admission.offer(step, ranks(step), &steps[step].asked);
                waiting.insert(step, 0);
            }
            let over: Vec<usize> = running.iter().filter(|(_, (end, _))| *end == now).map(|(step, _)| *step).collect();
            for step in over {
                running.remove(&step);
                admission.release(step);
            }
            loop {
                let free = there.cpus - running.values().map(|(_, g)| g.cpus).sum::<u32>();
                let first = waiting.keys().copied().max_by_key(|step| ranks(*step));
                let Some((step, grant)) = admission.next() else { break };
                waiting.remove(&step).unwrap();
                // The first of all waits for processors, and another takes some.
                if let Some(first) = first.filter(|first| *first != step) {
                    let needs = match steps[first].asked.cpus { Cpus::Count(n) => n, Cpus::All => there.cpus };
                    if free < needs {
                        let times = waiting.get_mut(&first).unwrap();
                        *times += 1;
                        prop_assert!(*times <= OVERTAKEN, "step {first} is kept waiting");
                    }
                }
                running.insert(step, (now + steps[step].takes, grant));
                check_books(&there, &running, &steps);
                started += 1;
            }
            prop_assert!(waiting.is_empty() || !running.is_empty(), "nothing runs and {waiting:?} wait");
            if started == steps.len() { break }
            prop_assert!(now < 40 + 30 * 50, "{waiting:?} never start");
        }
    }
}
