//! A disk that forgets: what files may hold after the power went, by what was done to them before.
//!
//! A write may be on the disk from the moment that it is made, and surely is once a sync of its file
//! returned; until then each 512 bytes of it are there or not, whatever became of the others. After a
//! sync that failed the kernel takes the pages for written: a later sync doesn't save them, only
//! writing them again does. A name is there, or gone, for sure with a sync of its folder, which SQLite
//! makes with the first sync of a log.

use std::collections::BTreeMap;
use std::path::Path;

/// Bytes that a disk writes whole.
const SECTOR: usize = 512;

/// Something that was done to a file, or learned meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    Write {
        file: String,
        at: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        file: String,
        size: usize,
    },
    Sync {
        file: String,
    },
    SyncFailed {
        file: String,
    },
    Delete {
        file: String,
        synced: bool,
    },
    /// The store was told that its folder is synced.
    FolderSynced,
    /// A run's synced commit was acknowledged: it has so many events.
    Acknowledged {
        run: u64,
        events: u64,
    },
}

/// Numbers that look random and repeat with the seed (splitmix64).
#[derive(Debug)]
pub(crate) struct Coins(pub(crate) u64);

impl Coins {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn head(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

/// What becomes of that which isn't surely on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Kept,
    Dropped,
    /// By a coin for each sector.
    Torn,
}

#[derive(Debug, Clone)]
enum Edit {
    Write { at: usize, bytes: Vec<u8> },
    Truncate { size: usize },
}

/// A file's content.
#[derive(Debug, Clone, Default)]
struct Inode {
    /// What is on the disk for sure, but for the edits.
    sure: Vec<u8>,
    /// What was done since, with whether it is on the disk for sure all the same.
    edits: Vec<(Edit, bool)>,
    /// Edits from here on are not synced; those before are synced, or lost to a sync that failed.
    unsynced: usize,
}

fn write(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[at..end].copy_from_slice(bytes);
}

impl Inode {
    fn edit(&mut self, edit: Edit) {
        self.edits.push((edit, false));
    }

    fn sync(&mut self) {
        for (_, sure) in &mut self.edits[self.unsynced..] {
            *sure = true;
        }
        self.unsynced = self.edits.len();
        // What nothing uncertain lies under needn't be done again for each cut.
        if self.edits.iter().all(|(_, sure)| *sure) {
            self.sure = self.after(Fate::Kept, &mut Coins(0));
            self.edits.clear();
            self.unsynced = 0;
        }
    }

    fn fail_to_sync(&mut self) {
        self.unsynced = self.edits.len();
    }

    fn after(&self, fate: Fate, coins: &mut Coins) -> Vec<u8> {
        let mut content = self.sure.clone();
        for (edit, sure) in &self.edits {
            let fate = if *sure { Fate::Kept } else { fate };
            let mut happened = || match fate {
                Fate::Kept => true,
                Fate::Dropped => false,
                Fate::Torn => coins.head(),
            };
            match edit {
                Edit::Truncate { size } if happened() => content.resize(*size, 0),
                Edit::Truncate { .. } => {}
                Edit::Write { at, bytes } => {
                    let (mut at, mut rest) = (*at, bytes.as_slice());
                    while !rest.is_empty() {
                        let sector = rest.len().min(SECTOR - at % SECTOR);
                        let (now, later) = rest.split_at(sector);
                        if happened() {
                            write(&mut content, at, now);
                        }
                        (at, rest) = (at + sector, later);
                    }
                }
            }
        }
        content
    }
}

/// A name in the folder.
#[derive(Debug, Default)]
struct Name {
    now: Option<Inode>,
    /// What it may still be after a power cut.
    before: Vec<Option<Inode>>,
}

impl Name {
    fn inode(&mut self) -> &mut Inode {
        if self.now.is_none() {
            self.before.push(None);
        }
        self.now.get_or_insert_default()
    }
}

/// The folder of a store, as far as it is known.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    names: BTreeMap<String, Name>,
    /// Events of each run that were acknowledged.
    pub(crate) acknowledged: BTreeMap<u64, u64>,
}

impl Disk {
    fn of(&mut self, file: &str) -> &mut Name {
        self.names.entry(file.to_owned()).or_default()
    }

    pub(crate) fn apply(&mut self, op: Op) {
        match op {
            Op::Write { file, at, bytes } => {
                self.of(&file).inode().edit(Edit::Write { at, bytes });
            }
            Op::Truncate { file, size } => self.of(&file).inode().edit(Edit::Truncate { size }),
            Op::Sync { file } => {
                let name = self.of(&file);
                name.inode().sync();
                // The log and the journal are synced with their folder; the store syncs its own.
                if file.contains('-') {
                    name.before.clear();
                }
            }
            Op::SyncFailed { file } => self.of(&file).inode().fail_to_sync(),
            Op::Delete { file, synced } => {
                let name = self.of(&file);
                let was = name.now.take();
                name.before.push(was);
                if synced {
                    name.before.clear();
                }
            }
            Op::FolderSynced => self.names.values_mut().for_each(|n| n.before.clear()),
            Op::Acknowledged { run, events } => {
                self.acknowledged.insert(run, events);
            }
        }
    }

    /// Returns what a program reads of a file while the power is on.
    pub(crate) fn content(&self, file: &str) -> Option<Vec<u8>> {
        let inode = self.names.get(file)?.now.as_ref()?;
        Some(inode.after(Fate::Kept, &mut Coins(0)))
    }

    /// Writes the files as they are after a power cut.
    pub(crate) fn cut(&self, fate: Fate, coins: &mut Coins, to: &Path) -> std::io::Result<()> {
        for (file, name) in &self.names {
            let older = name.before.len() as u64;
            let choice = match fate {
                Fate::Kept => older,
                Fate::Dropped => 0,
                Fate::Torn => coins.next() % (older + 1),
            };
            let found = usize::try_from(choice)
                .ok()
                .and_then(|n| name.before.get(n));
            if let Some(inode) = found.unwrap_or(&name.now) {
                std::fs::write(to.join(file), inode.after(fate, coins))?;
            }
        }
        Ok(())
    }
}
