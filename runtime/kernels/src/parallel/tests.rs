use super::*;

fn team(threads: usize) -> Team {
    Team::new(threads, Isa::detect())
}

#[test]
fn every_task_runs_once_whatever_the_team() {
    for threads in [0, 1, 2, 3, 8] {
        team(threads).region(|region| {
            for tasks in [0, 1, 2, 3, 64, 1000] {
                let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                region.run(tasks, |i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{threads} {tasks}");
            }
        });
    }
}

#[test]
fn shares_are_taken_from_both_ends() {
    let share = Share(AtomicU64::new(0));
    assert_eq!((share.first(), share.last_half()), (None, None));
    share.set(3, 8);
    assert_eq!((share.first(), share.last_half()), (Some(3), Some(6..8)));
    assert_eq!((share.last_half(), share.last_half()), (Some(5..6), Some(4..5)));
    assert_eq!((share.first(), share.first(), share.last_half()), (None, None, None));
}

#[test]
fn a_thread_goes_through_its_tasks_in_order_and_then_takes_over_what_another_leaves() {
    let order = Mutex::new(Vec::new());
    team(2).region(|region| {
        // The caller's first task waits for all others, which the worker must do then.
        let left = AtomicUsize::new(15);
        region.run(16, |task| {
            if task == 0 {
                let begin = std::time::Instant::now();
                while left.load(Ordering::Acquire) > 0 && begin.elapsed().as_secs() < 20 {
                    std::thread::yield_now();
                }
                assert_eq!(left.load(Ordering::Acquire), 0, "nobody took over");
            } else {
                lock(&order).push(task);
                left.fetch_sub(1, Ordering::Release);
            }
        });
    });
    let order = lock(&order);
    assert_eq!(order[..8], [8, 9, 10, 11, 12, 13, 14, 15], "its own tasks first");
    let mut rest = order[8..].to_vec();
    rest.sort_unstable();
    assert_eq!(rest, [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn a_panic_leaves_tasks_undone() {
    let (begun, after) = (AtomicBool::new(false), AtomicUsize::new(0));
    let ended = AtomicBool::new(false);
    team(2).region(|region| {
        let run = || {
            region.run(10_000, |task| {
                if task == 0 {
                    let begin = std::time::Instant::now();
                    while !begun.load(Ordering::Acquire) && begin.elapsed().as_secs() < 20 {
                        std::thread::yield_now();
                    }
                    ended.store(true, Ordering::Release);
                    panic!("task 0");
                }
                begun.store(true, Ordering::Release);
                if ended.load(Ordering::Acquire) {
                    after.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            })
        };
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
    });
    assert!(begun.into_inner(), "the worker did not come");
    assert!(after.load(Ordering::Relaxed) < 2_500, "{after:?}");
}

#[test]
#[cfg(target_pointer_width = "64")]
#[should_panic(expected = "a loop of 4294967296 tasks")]
fn too_many_tasks_are_refused() {
    team(1).region(|region| region.run(1 << 32, |_| ()));
}

#[test]
fn many_short_loops_lose_nothing() {
    let team = team(3);
    let mut sums = vec![0_u64; 64];
    for _ in 0..20 {
        team.region(|region| {
            for round in 0..500_u64 {
                region.run_chunks(&mut sums, 7, |i, part| {
                    part.iter_mut().for_each(|x| *x += round + i as u64);
                });
            }
        });
    }
    for (k, sum) in sums.iter().enumerate() {
        assert_eq!(*sum, 20 * (499 * 500 / 2 + 500 * (k as u64 / 7)));
    }
}

#[test]
fn sleeping_workers_come_back() {
    let total = AtomicUsize::new(0);
    team(3).region(|region| {
        for _ in 0..20 {
            region.idle();
            std::thread::sleep(std::time::Duration::from_millis(2));
            region.run(50, |_| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(total.into_inner(), 1000);
}

#[test]
fn workers_take_part() {
    let threads = Mutex::new(std::collections::HashSet::new());
    team(2).region(|region| {
        let begin = std::time::Instant::now();
        while lock(&threads).len() < 2 && begin.elapsed().as_secs() < 20 {
            region.run(8, |_| {
                lock(&threads).insert(std::thread::current().id());
                std::thread::sleep(std::time::Duration::from_millis(1));
            });
        }
    });
    assert_eq!(lock(&threads).len(), 2);
}

#[test]
fn a_panic_in_any_task_reaches_the_caller_and_the_team_lives() {
    let team = team(3);
    for bad in [0, 1, 17, 63] {
        let result = catch_unwind(AssertUnwindSafe(|| {
            team.region(|region| {
                region.run(64, |i| {
                    std::thread::sleep(std::time::Duration::from_micros(50));
                    assert!(i != bad, "task {i}");
                });
            });
        }));
        let payload = result.expect_err("the panic was lost");
        assert_eq!(payload.downcast_ref::<String>(), Some(&format!("task {bad}")));
    }
    let done = AtomicUsize::new(0);
    team.region(|region| {
        region.run(10, |_| {
            done.fetch_add(1, Ordering::Relaxed);
        })
    });
    assert_eq!(done.into_inner(), 10);
}

#[test]
fn a_region_goes_on_after_a_panic_that_was_caught_inside() {
    let total = AtomicUsize::new(0);
    team(2).region(|region| {
        for _ in 0..50 {
            let _ = catch_unwind(AssertUnwindSafe(|| region.run(20, |i| assert!(i != 10))));
            region.run(20, |_| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(total.into_inner(), 1000);
}

#[test]
fn a_region_inside_a_loop_or_beside_another_does_not_hang() {
    let team = team(2);
    let total = AtomicUsize::new(0);
    let inner = |_| {
        team.region(|region| {
            region.run(5, |_| {
                total.fetch_add(1, Ordering::Relaxed);
            })
        })
    };
    team.region(|region| region.run(10, inner));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..50).for_each(inner));
        }
    });
    assert_eq!(total.into_inner(), 5 * (10 + 200));
}

#[test]
fn a_result_and_a_panic_of_the_region_body_pass_through() {
    let team = team(2);
    assert_eq!(team.region(|region| region.threads()), 2);
    assert!(catch_unwind(AssertUnwindSafe(|| team.region(|_| panic!("body")))).is_err());
    assert_eq!(team.region(|region| region.threads()), 2);
}
