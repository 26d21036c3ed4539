//! Reading a file in large pieces, the next one while the caller still looks at the last.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use windlass_core::{ByteStream, ObjectKey, StorageError};

use super::errors::{Tried, convert};
use crate::blocking::blocking;

/// Bytes of one read; measured best between the cost of a hop and that of memory.
pub(super) const PIECE: u64 = 1 << 20;
/// Pieces that are read ahead.
const AHEAD: usize = 2;

pub(super) fn read_piece(
    key: &ObjectKey,
    file: &File,
    range: Range<u64>,
) -> Result<Bytes, StorageError> {
    let length = usize::try_from(range.end - range.start)
        .map_err(|e| StorageError::internal("a piece is larger than memory").with_source(e))?;
    let mut piece = vec![0; length];
    file.read_exact_at(&mut piece, range.start).map_err(|e| {
        if e.kind() == std::io::ErrorKind::UnexpectedEof {
            StorageError::corrupt(format!(
                "the file became shorter while it was read key=`{key}`"
            ))
        } else {
            convert(Tried::Read, key, e)
        }
    })?;
    Ok(piece.into())
}

/// Streams `range` of a file, which lies within it.
pub(super) fn pieces(key: ObjectKey, file: File, range: Range<u64>) -> ByteStream {
    let file = Arc::new(file);
    let starts = std::iter::successors(Some(range.start), |at| at.checked_add(PIECE));
    let end = range.end;
    stream::iter(starts.take_while(move |at| *at < end))
        .map(move |at| {
            let (key, file) = (key.clone(), Arc::clone(&file));
            blocking(move || read_piece(&key, &file, at..end.min(at + PIECE)))
        })
        .buffered(AHEAD)
        .boxed()
}
