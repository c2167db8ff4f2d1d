use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};
use retinanet_images::catch_panic;

/// Maps an iterator on worker threads; the results come in the order of the inputs.
///
/// At most `window` inputs are under way or waiting to be fetched, so that memory is bounded and no
/// thread ever blocks on sending. Dropping it stops the workers after their current input.
pub struct ParallelMap<I: Iterator, T> {
    inputs: I,
    work: Arc<dyn Fn(I::Item) -> T + Send + Sync>,
    window: u64,
    /// How many inputs were handed out, and how many results.
    sent: u64,
    yielded: u64,
    /// Results that came before their turn.
    early: BTreeMap<u64, Result<T, String>>,
    /// Nothing if the caller's own thread does the work.
    workers: Option<Workers<I::Item, T>>,
}

struct Workers<J, T> {
    jobs: Sender<(u64, J)>,
    /// A second end of `jobs`, to take back what no worker has begun.
    unbegun: Receiver<(u64, J)>,
    results: Receiver<(u64, Result<T, String>)>,
    threads: Vec<JoinHandle<()>>,
}

impl<I, T> ParallelMap<I, T>
where
    I: Iterator,
    I::Item: Send + 'static,
    T: Send + 'static,
{
    /// Starts the threads and their first inputs. Without threads the work is done in
    /// [`next`](Iterator::next).
    ///
    /// # Errors
    ///
    /// Returns an error if a thread cannot be started.
    pub fn start(
        inputs: I,
        threads: usize,
        window: usize,
        work: impl Fn(I::Item) -> T + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let work: Arc<dyn Fn(I::Item) -> T + Send + Sync> = Arc::new(work);
        let workers = match threads {
            0 => None,
            _ => Some(Workers::start(threads, &work)?),
        };
        let mut map = Self {
            inputs,
            work,
            window: window.max(1) as u64,
            sent: 0,
            yielded: 0,
            early: BTreeMap::new(),
            workers,
        };
        map.fill();
        Ok(map)
    }

    /// Hands out inputs until the window is full.
    fn fill(&mut self) {
        let Some(workers) = &self.workers else {
            return;
        };
        while self.sent - self.yielded < self.window {
            let Some(input) = self.inputs.next() else {
                return;
            };
            // `unbegun` keeps the channel open.
            if workers.jobs.send((self.sent, input)).is_err() {
                return;
            }
            self.sent += 1;
        }
    }
}

impl<I, T> Iterator for ParallelMap<I, T>
where
    I: Iterator,
    I::Item: Send + 'static,
    T: Send + 'static,
{
    /// The result, or what a panic said.
    type Item = Result<T, String>;

    fn next(&mut self) -> Option<Result<T, String>> {
        let Some(workers) = &self.workers else {
            let input = self.inputs.next()?;
            return Some(catch_panic(|| (self.work)(input)));
        };
        if self.yielded == self.sent {
            return None;
        }
        let result = loop {
            if let Some(result) = self.early.remove(&self.yielded) {
                break result;
            }
            match workers.results.recv() {
                Ok((number, result)) => self.early.insert(number, result),
                // Workers catch panics; should they all have ended all the same, say so rather
                // than wait for ever.
                Err(_) => break Err("every worker thread has ended".into()),
            };
        };
        self.yielded += 1;
        self.fill();
        Some(result)
    }
}

impl<J: Send + 'static, T: Send + 'static> Workers<J, T> {
    fn start(threads: usize, work: &Arc<dyn Fn(J) -> T + Send + Sync>) -> io::Result<Self> {
        // `fill` bounds what is in them.
        let (jobs, unbegun) = unbounded();
        let (sender, results) = unbounded();
        let mut workers = Self {
            jobs,
            unbegun,
            results,
            threads: Vec::new(),
        };
        for number in 0..threads {
            let work = Arc::clone(work);
            let jobs = workers.unbegun.clone();
            let results = sender.clone();
            let thread = thread::Builder::new()
                .name(format!("loader-{number}"))
                .spawn(move || {
                    for (number, job) in jobs {
                        let result = catch_panic(|| work(job));
                        if results.send((number, result)).is_err() {
                            break;
                        }
                    }
                })?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }
}

impl<J, T> Drop for Workers<J, T> {
    fn drop(&mut self) {
        // Closes the channel, by putting one that has no other end in its place.
        self.jobs = unbounded().0;
        while self.unbegun.try_recv().is_ok() {}
        for thread in self.threads.drain(..) {
            // A panic outside of `catch_panic` has nothing left to spoil.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn squares(threads: usize, window: usize) -> Vec<Result<u64, String>> {
        ParallelMap::start(0..100_u64, threads, window, |number| number * number)
            .expect("threads can be started")
            .collect()
    }

    #[test]
    fn results_come_in_order() {
        let expected: Vec<_> = (0..100).map(|number| Ok(number * number)).collect();
        for threads in 0..4 {
            for window in [1, 2, 7, 200] {
                assert_eq!(
                    squares(threads, window),
                    expected,
                    "{threads} threads, {window}"
                );
            }
        }
    }

    #[test]
    fn late_workers_do_not_change_the_order() {
        // The first input ends only after all others that fit into the window.
        let (release, hold) = unbounded::<()>();
        let done = Arc::new(AtomicUsize::new(0));
        let results = {
            let done = Arc::clone(&done);
            ParallelMap::start(0..4, 2, 4, move |number| {
                if number == 0 {
                    // Fails once the other end is dropped: that is the release.
                    assert!(hold.recv().is_err());
                } else {
                    done.fetch_add(1, Ordering::SeqCst);
                }
                number
            })
            .expect("threads can be started")
        };
        while done.load(Ordering::SeqCst) < 3 {
            thread::yield_now();
        }
        drop(release);
        assert_eq!(results.collect::<Vec<_>>(), [Ok(0), Ok(1), Ok(2), Ok(3)]);
    }

    #[test]
    fn never_more_inputs_are_under_way_than_the_window() {
        for (threads, window) in [(1, 1), (2, 3), (8, 4)] {
            let begun = Arc::new(AtomicUsize::new(0));
            let mut results = {
                let begun = Arc::clone(&begun);
                ParallelMap::start(0..200_usize, threads, window, move |_| {
                    begun.fetch_add(1, Ordering::SeqCst);
                })
                .expect("threads can be started")
            };
            for taken in 0..200 {
                // The workers had as much time as the first one took.
                assert!(begun.load(Ordering::SeqCst) <= taken + window);
                assert!(results.next().is_some());
            }
            assert_eq!(begun.load(Ordering::SeqCst), 200);
        }
    }

    #[test]
    fn a_panic_comes_out_in_its_place() {
        for threads in 0..3 {
            let results: Vec<_> = ParallelMap::start(0..5, threads, 4, |number| {
                assert_ne!(number, 3, "three is too much");
                number
            })
            .expect("threads can be started")
            .collect();
            assert_eq!(results[..3], [Ok(0), Ok(1), Ok(2)]);
            let message = results[3].as_ref().expect_err("three panics");
            assert!(message.contains("three is too much"), "{message}");
            assert_eq!(results[4], Ok(4));
        }
    }

    #[test]
    fn dropping_stops_the_workers() {
        let begun = Arc::new(AtomicUsize::new(0));
        let mut results = {
            let begun = Arc::clone(&begun);
            ParallelMap::start(0.., 3, 8, move |number: u64| {
                begun.fetch_add(1, Ordering::SeqCst);
                number
            })
            .expect("threads can be started")
        };
        assert_eq!(results.next(), Some(Ok(0)));
        drop(results);
        // Only this test still holds the counter: no worker is left.
        assert_eq!(Arc::strong_count(&begun), 1);
        assert!(begun.load(Ordering::SeqCst) <= 9);
    }

    #[test]
    fn nothing_is_nothing() {
        for threads in 0..3 {
            let results = ParallelMap::start(iter_of_nothing(), threads, 2, |number: u64| number);
            assert!(results.expect("threads can be started").next().is_none());
        }
    }

    fn iter_of_nothing() -> impl Iterator<Item = u64> {
        std::iter::empty()
    }
}
