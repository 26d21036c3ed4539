//! Decoded pipeline versions at hand: a million steps take long to decode, and many runs share them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use windlass_core::Digest;
use windlass_core::run_store::VersionRecord;

/// Steps of all kept versions together; at about 1 KiB a step decoded, 64 MiB.
const STEPS_KEPT: usize = 65_536;
/// Versions kept, however small.
const VERSIONS_KEPT: usize = 512;

/// The versions that were used last, the latest at the back.
#[derive(Debug, Default)]
pub(crate) struct Versions(Mutex<VecDeque<VersionRecord>>);

impl Versions {
    fn kept(&self) -> MutexGuard<'_, VecDeque<VersionRecord>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<VersionRecord> {
        let mut kept = self.kept();
        let found = kept.iter().position(|v| v.digest == *digest)?;
        let version = kept.remove(found)?;
        kept.push_back(version.clone());
        Some(version)
    }

    /// Forgets all, after which each is read anew.
    #[cfg(feature = "sqlite")]
    pub(super) fn clear(&self) {
        self.kept().clear();
    }

    /// Keeps a version; the latest one is kept whatever its size.
    pub(crate) fn keep(&self, version: VersionRecord) {
        let mut kept = self.kept();
        kept.retain(|v| v.digest != version.digest);
        kept.push_back(version);
        let mut steps = 0;
        let fit = kept.iter().rev().take(VERSIONS_KEPT).take_while(|v| {
            let first = steps == 0;
            steps += 1 + v.spec.all_steps().count();
            first || steps <= STEPS_KEPT
        });
        let drop_first = kept.len() - fit.count();
        drop(kept.drain(..drop_first));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use windlass_core::{Pipeline, Timestamp};

    use super::*;

    fn version(name: &str, steps: usize) -> VersionRecord {
        let mut p = Pipeline::builder(name);
        for i in 0..steps {
            p.add(&format!("s{i}"), |_| async { Ok(()) });
        }
        let p = p.build().unwrap();
        VersionRecord::new(p.digest(), Arc::clone(p.spec()), Timestamp::from_micros(1))
    }

    #[test]
    fn the_versions_used_last_are_kept() {
        let versions = Versions::default();
        let [a, b, large] = [
            version("a", 1),
            version("b", 1),
            version("c", STEPS_KEPT - 4),
        ];
        versions.keep(a.clone());
        versions.keep(b.clone());
        assert_eq!(versions.get(&a.digest), Some(a.clone()));
        versions.keep(large.clone());
        assert!(
            versions.get(&large.digest).is_some(),
            "the latest is kept whatever its size"
        );
        assert!(
            versions.get(&a.digest).is_some(),
            "it was used after the other one"
        );
        assert!(
            versions.get(&b.digest).is_none(),
            "there was no room for it"
        );
    }
}
