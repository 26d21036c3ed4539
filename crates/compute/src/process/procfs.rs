//! What `/proc` tells about processes and about this boot of the machine.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// One life of one process: a pid alone is used again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub(super) struct ProcessLife {
    /// Of this boot of the kernel.
    pub(super) boot_id: String,
    pub(super) pid: i32,
    /// In clock ticks since that boot.
    pub(super) start_ticks: u64,
}

impl ProcessLife {
    /// Returns the life of a process that is there now.
    pub(super) fn of(pid: i32) -> Option<Self> {
        Some(Self {
            boot_id: boot_id(),
            pid,
            start_ticks: Stat::read(pid)?.start_ticks,
        })
    }

    /// Returns the life of this process.
    pub(super) fn me() -> Self {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Self::of(pid).unwrap_or(Self {
            boot_id: boot_id(),
            pid,
            start_ticks: 0,
        })
    }

    /// Returns true if that process is still there: not ended, not even as a zombie.
    pub(super) fn is_alive(&self) -> bool {
        self.boot_id == boot_id()
            && Stat::read(self.pid)
                .is_some_and(|s| s.start_ticks == self.start_ticks && !matches!(s.state, 'Z' | 'X'))
    }

    /// Returns a name for folders: boot, pid and start, readable by [`Self::from_name`].
    pub(super) fn name(&self) -> String {
        format!("{}.{}.{}", self.boot_id, self.pid, self.start_ticks)
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        let mut parts = name.split('.');
        let life = Self {
            boot_id: parts.next()?.to_owned(),
            pid: parts.next()?.parse().ok()?,
            start_ticks: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(life)
    }
}

/// Returns the id of this boot of the kernel; the empty text where `/proc` has none.
pub(super) fn boot_id() -> String {
    static ID: LazyLock<String> = LazyLock::new(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|s| s.trim().to_owned())
            .unwrap_or_default()
    });
    ID.clone()
}

/// A process of this boot, told from later ones of its pid by when it was started.
///
/// Costs no look at `/proc`, as [`ProcessLife`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Spawned {
    pub(super) pid: i32,
    /// In clock ticks since the boot: not before, and not after.
    from: u64,
    to: u64,
}

impl Spawned {
    pub(super) const fn between(pid: i32, from: u64, to: u64) -> Self {
        Self { pid, from, to }
    }

    /// Returns true if that process is still there: not ended, not even as a zombie.
    pub(super) fn is_alive(self) -> bool {
        Stat::read(self.pid).is_some_and(|s| {
            (self.from..=self.to).contains(&s.start_ticks) && !matches!(s.state, 'Z' | 'X')
        })
    }
}

/// Returns the clock ticks since the boot, as `/proc` counts them.
pub(super) fn ticks_now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let whole = |n: i64| u64::try_from(n).unwrap_or_default();
    let hertz = rustix::param::clock_ticks_per_second();
    whole(now.tv_sec) * hertz + whole(now.tv_nsec) * hertz / 1_000_000_000
}

struct Stat {
    state: char,
    parent: i32,
    start_ticks: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name stands in brackets and may hold anything, brackets too: see proc(5).
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            start_ticks: fields.get(19)?.parse().ok()?,
        })
    }
}

/// Returns every process below `root`, parents before their children, `root` left out.
pub(super) fn descendants(root: i32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    for entry in entries.flatten() {
        let pid = entry.file_name().to_str().and_then(|n| n.parse().ok());
        if let Some(pid) = pid
            && let Some(stat) = Stat::read(pid)
        {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        // Taking the list out ends even a circle, which a reused pid could draw.
        for child in children.remove(&pid).unwrap_or_default() {
            found.push(child);
            next.push(child);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_is_no_trap() {
        let text = "7 (a) b) S 3 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.parent, stat.start_ticks), ('S', 3, 4_242));
    }

    #[test]
    fn this_process_is_alive_and_its_name_reads_back() {
        let me = ProcessLife::me();
        assert!(me.is_alive());
        assert_eq!(ProcessLife::from_name(&me.name()), Some(me.clone()));
        let other = ProcessLife {
            start_ticks: me.start_ticks + 1,
            ..me
        };
        assert!(!other.is_alive());
    }

    #[test]
    fn a_process_is_known_by_when_it_was_started() {
        let from = ticks_now();
        let mut child = std::process::Command::new("/bin/sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let spawned = Spawned::between(pid, from, ticks_now());
        assert!(spawned.is_alive());
        assert!(!Spawned::between(pid, 0, from - 1).is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!spawned.is_alive());
    }

    #[test]
    fn a_child_is_a_descendant() {
        let mut child = std::process::Command::new("/bin/sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let me = rustix::process::getpid().as_raw_nonzero().get();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(descendants(me).contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!descendants(me).contains(&pid));
    }
}
