//! The same work on many items by a few threads, where the work is waiting for a disk.

use std::sync::{Mutex, PoisonError};
use std::thread;

/// A disk that is asked by so many at once answers them with one flush of its cache. More gain nothing.
const THREADS: usize = 4;
/// Fewer items are not worth a thread.
const FEW: usize = 16;

/// Does `work` on each item, in any order; the results are in the items' order. Where no thread can be had, the caller does it all.
pub(super) fn together<T: Send, R: Send>(items: &mut [T], work: impl Fn(&mut T) -> R + Sync) -> Vec<R> {
    if items.len() < FEW {
        return items.iter_mut().map(work).collect();
    }
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    let todo = Mutex::new(items.iter_mut().zip(&mut results));
    let take = || todo.lock().unwrap_or_else(PoisonError::into_inner).next();
    let run = || {
        while let Some((item, result)) = take() {
            *result = Some(work(item));
        }
    };
    thread::scope(|scope| {
        for _ in 1..THREADS {
            if let Err(cause) = thread::Builder::new().name("bytekeep-flush".to_owned()).spawn_scoped(scope, run) {
                tracing::debug!(%cause, "one thread less");
                break;
            }
        }
        run();
    });
    results.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_item_is_worked_on_once_and_answered_in_its_place() {
        for len in [0, 1, FEW - 1, FEW, 1000] {
            let mut items: Vec<usize> = (0..len).collect();
            let results = together(&mut items, |item| {
                *item += 1;
                *item * 2
            });
            assert_eq!(items, (1..=len).collect::<Vec<_>>());
            assert_eq!(results, (1..=len).map(|item| item * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn several_wait_at_once() {
        let waited = together(&mut [(); FEW], |()| {
            thread::sleep(Duration::from_millis(5));
            thread::current().id()
        });
        assert!(waited.into_iter().collect::<HashSet<_>>().len() > 1);
    }
}
