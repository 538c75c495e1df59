//! A panic in a worker costs the batch that it was at, not the worker: each of its clients is told,
//! and the worker goes on with new connections.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use super::operation::Operation;
use crate::protocol::Reply;

/// The work has panicked; the panic's own text is in the log.
#[derive(Debug)]
pub struct Panicked;

/// Runs work to its end or to its panic.
///
/// # Errors
/// When it panicked. What the work was changing is in no known state then.
pub async fn rescue<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut work = pin!(work);
    poll_fn(|context| {
        // A future that has panicked is not polled again.
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
            Ok(Poll::Ready(done)) => Poll::Ready(Ok(done)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    })
    .await
}

/// Answers those operations of a batch that the panic has left without an answer.
pub fn answer_the_rest(batch: &[Operation]) {
    tracing::error!("a worker panicked; it starts again with new connections");
    let reply = Reply::err("internal error; a write may have happened");
    for operation in batch.iter().filter(|operation| !operation.is_answered()) {
        operation.answer(&reply);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_ends_well_or_is_known_to_have_panicked() {
        let work = async {
            tokio::task::yield_now().await;
            7
        };
        assert_eq!(rescue(work).await.expect("it does not panic"), 7);
        let work = async {
            tokio::task::yield_now().await;
            assert!(std::hint::black_box(false), "on purpose");
        };
        assert!(rescue(work).await.is_err());
    }
}
