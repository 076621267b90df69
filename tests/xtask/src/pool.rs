//! Jobs beside each other, as many at a time as the machine has processors.

use anyhow::{Context, Result};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread;

/// A piece of work.
pub struct Job<'a, T> {
    name: String,
    work: Box<dyn FnOnce() -> Result<T> + Send + 'a>,
}

impl<'a, T> Job<'a, T> {
    /// `name` is for errors.
    pub fn new(name: impl Into<String>, work: impl FnOnce() -> Result<T> + Send + 'a) -> Self {
        Self { name: name.into(), work: Box::new(work) }
    }
}

/// Does all jobs, the first ones first; gives what comes of them in their order. What a job prints should come in one piece.
///
/// # Errors
/// When a job fails: what is running is ended, nothing more is begun, and the first error is given.
pub fn run<'a, T: Send + 'a>(jobs: Vec<Job<'a, T>>) -> Result<Vec<T>> {
    let count = jobs.len();
    let threads = thread::available_parallelism().map_or(1, usize::from).min(count.max(1));
    let waiting = Mutex::new(jobs.into_iter().enumerate().collect::<VecDeque<_>>());
    let take = || waiting.lock().ok().and_then(|mut waiting| waiting.pop_front());
    let (sender, receiver) = channel();
    thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, take, waiting) = (sender.clone(), &take, &waiting);
            scope.spawn(move || {
                while let Some((place, job)) = take() {
                    let done = (job.work)().context(job.name);
                    if let (Err(_), Ok(mut waiting)) = (&done, waiting.lock()) {
                        waiting.clear();
                    }
                    // The receiver stands to the end of the scope.
                    let _ = sender.send((place, done));
                }
            });
        }
    });
    drop(sender);
    let mut results: Vec<Option<T>> = (0..count).map(|_| None).collect();
    for (place, done) in receiver {
        results[place] = Some(done?);
    }
    let results: Option<Vec<T>> = results.into_iter().collect();
    results.context("a job was not done")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        let jobs = (0..20_u64).map(|number| {
            Job::new(format!("{number}"), move || {
                thread::sleep(std::time::Duration::from_millis(number % 3));
                Ok(number * 2)
            })
        });
        assert_eq!(run(jobs.collect()).unwrap(), (0..20).map(|number| number * 2).collect::<Vec<_>>());
    }

    #[test]
    fn a_failure_is_named_and_ends_the_rest() {
        let begun = AtomicUsize::new(0);
        let mut jobs = vec![Job::new("the broken one", || bail!("no tool"))];
        jobs.extend((0..100).map(|number| {
            Job::new(format!("{number}"), || {
                begun.fetch_add(1, Ordering::Relaxed);
                thread::sleep(std::time::Duration::from_millis(5));
                Ok(())
            })
        }));
        let error = run(jobs).unwrap_err();
        assert_eq!(format!("{error:#}"), "the broken one: no tool");
        assert!(begun.load(Ordering::Relaxed) < 100);
    }
}
