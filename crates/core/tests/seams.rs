//! Every seam can be held as `Arc<dyn …>` and shared, and its futures can move between threads.
//!
//! The functions below are never called: that they compile is the test. One line a method, so a
//! new method or a changed bound shows up here first.

use std::sync::Arc;
use std::time::Duration;

use windlass_core::{
    Clock, ClockExt, ComputeTarget, Durability, Expressions, IdSource, JobHandle, JobSpec,
    LogStream, Notification, Notifier, ObjectKey, PutMode, Reactor, RunId, RunKey, RunQuery,
    RunStore, Step, StepContext, Storage, StorageExt, SubmitKey, Timestamp, Transition,
};

const fn shared<T: ?Sized + Send + Sync + 'static>() {}
const fn owned<T: ?Sized + Send + 'static>() {}
fn sendable<T: Send>(value: T) {
    drop(value);
}

#[test]
fn seams_are_object_safe_and_shared_between_threads() {
    shared::<Arc<dyn Storage>>();
    shared::<Arc<dyn ComputeTarget>>();
    shared::<Arc<dyn Notifier>>();
    shared::<Arc<dyn Step>>();
    shared::<Arc<dyn RunStore>>();
    shared::<Arc<dyn Clock>>();
    shared::<Arc<dyn Expressions>>();
    shared::<Arc<dyn IdSource>>();
    // A reactor folds: one loop owns it and calls it with `&mut`, so it needn't be shared.
    owned::<Box<dyn Reactor>>();
}

#[test]
fn what_crosses_the_seams_is_shared_between_threads() {
    shared::<windlass_core::Pipeline>();
    shared::<windlass_core::StepRef<std::cell::Cell<u8>>>();
    shared::<windlass_core::InvalidPipeline>();
    shared::<StepContext>();
    shared::<windlass_core::StepError>();
    shared::<windlass_core::StorageError>();
    shared::<windlass_core::ComputeError>();
    shared::<windlass_core::NotifyError>();
    shared::<windlass_core::StoreError>();
    shared::<windlass_core::CancelSignal>();
    shared::<windlass_core::Storages>();
    owned::<windlass_core::ByteStream>();
}

#[expect(dead_code, reason = "that it compiles is the test")]
fn futures_of_storage_are_send(
    s: &dyn Storage,
    key: &ObjectKey,
    data: windlass_core::ByteStream,
    mode: PutMode,
) {
    sendable(s.put_stream(key, data, mode));
    sendable(s.get_stream(key, None));
    sendable(s.head(key));
    sendable(s.list(key));
    sendable(s.delete(key));
    sendable(s.copy(key, key));
    sendable(s.sync_folder(key));
    sendable(s.get(key, 1));
    sendable(s.list_sorted(key));
}

#[expect(dead_code, reason = "that it compiles is the test")]
fn futures_of_a_compute_target_are_send(
    t: &dyn ComputeTarget,
    key: &SubmitKey,
    spec: &JobSpec,
    handle: &JobHandle,
) {
    sendable(t.check(spec));
    sendable(t.submit(key, spec));
    sendable(t.find(key));
    sendable(t.observe(&[]));
    sendable(t.watch());
    sendable(t.cancel(handle, Duration::ZERO));
    sendable(t.logs(handle, LogStream::Stdout, 0));
    sendable(t.release(handle));
    sendable(t.list_owned(""));
}

#[expect(dead_code, reason = "that it compiles is the test")]
fn futures_of_a_run_store_are_send(
    s: &dyn RunStore,
    batch: Vec<Transition>,
    durability: Durability,
    id: RunId,
    key: &RunKey,
    query: &RunQuery,
    digest: &windlass_core::Digest,
) {
    sendable(s.commit(batch, durability));
    sendable(s.run(id));
    sendable(s.run_by_key(key));
    sendable(s.runs(query));
    sendable(s.snapshot(id));
    sendable(s.version(digest));
    sendable(s.events(id, 0, 1));
    sendable(s.outbox(1));
    sendable(s.dead_letters(1));
    sendable(s.step_name(digest, 0));
}

#[expect(dead_code, reason = "that it compiles is the test")]
fn futures_of_the_small_seams_are_send(
    notifier: &dyn Notifier,
    notification: &Notification,
    step: &dyn Step,
    cx: StepContext,
    clock: &dyn Clock,
    at: Timestamp,
) {
    sendable(notifier.deliver(notification));
    sendable(step.run(cx));
    sendable(clock.sleep_until(at));
    sendable(clock.sleep(Duration::ZERO));
    sendable(clock.timeout(Duration::ZERO, std::future::ready(())));
}
