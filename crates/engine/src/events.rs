//! A run's events as a stream: from the store first, then as they are committed, without a gap.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::broadcast;
use windlass_core::RunId;
use windlass_core::run_store::EventRecord;

use crate::engine::Inner;
use crate::handle::is_last;

/// Events read from the store at once.
const PAGE: u32 = 1_000;

struct Reader {
    inner: Arc<Inner>,
    run: RunId,
    live: broadcast::Receiver<EventRecord>,
    ready: VecDeque<EventRecord>,
    /// Number of the last event that was handed out.
    last: u64,
    /// True while the store may have more than was read.
    behind: bool,
    over: bool,
}

pub(crate) fn stream(inner: Arc<Inner>, run: RunId) -> BoxStream<'static, EventRecord> {
    // Subscribed before the first read, so nothing falls in between.
    let live = inner.events.subscribe();
    let behind = inner.core.store.is_some();
    let reader = Reader {
        inner,
        run,
        live,
        ready: VecDeque::new(),
        last: 0,
        behind,
        over: false,
    };
    stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((event, reader))
    })
    .boxed()
}

impl Reader {
    async fn next(&mut self) -> Option<EventRecord> {
        loop {
            if self.over {
                return None;
            }
            if let Some(event) = self.ready.pop_front() {
                if event.seq <= self.last {
                    continue;
                }
                self.last = event.seq;
                self.over = is_last(&event);
                return Some(event);
            }
            if self.behind {
                self.read().await;
                continue;
            }
            let received = tokio::select! {
                biased;
                received = self.live.recv() => received,
                // The channel itself never ends while somebody reads.
                () = self.inner.inbox.closed() => match self.live.try_recv() {
                    Ok(event) => Ok(event),
                    Err(_) => return None,
                },
            };
            match received {
                // A gap means that this reader was too slow for some of them.
                Ok(event)
                    if event.run == self.run
                        && event.seq > self.last + 1
                        && self.inner.core.store.is_some() =>
                {
                    self.behind = true
                }
                Ok(event) if event.run == self.run => self.ready.push_back(event),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    self.behind = self.inner.core.store.is_some()
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    async fn read(&mut self) {
        self.behind = false;
        let Some(store) = &self.inner.core.store else {
            return;
        };
        match store.events(self.run, self.last, PAGE).await {
            Ok(events) => {
                self.behind = events.len() as u32 == PAGE;
                self.ready.extend(events);
            }
            Err(error) => {
                tracing::warn!(error = %windlass_core::error_chain(&error), "events can't be read")
            }
        }
    }
}
