//! The control protocol for fuzzing; not part of the API.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::wire::{self, Launch, Report};

/// Reads what a helper reads first, and what a host reads as it comes in pieces of `piece` bytes.
///
/// # Panics
/// If a message that was read is another one when it is sent and read again, or if the size of the
/// pieces makes a difference.
pub fn control(bytes: &[u8], piece: usize) {
    if let Ok(launch) = wire::receive::<Launch>(bytes) {
        again(&launch);
    }
    let whole = reports(bytes, usize::MAX);
    let pieces = reports(bytes, piece.max(1));
    assert_eq!(whole, pieces, "a report depends on how its bytes came");
}

fn reports(bytes: &[u8], piece: usize) -> (Vec<String>, bool) {
    let (mut buffer, mut found) = (Vec::new(), Vec::new());
    for chunk in bytes.chunks(piece.min(bytes.len().max(1))) {
        buffer.extend_from_slice(chunk);
        loop {
            match wire::take::<Report>(&mut buffer) {
                Ok(Some(report)) => found.push(again(&report)),
                Ok(None) => break,
                Err(_) => return (found, false),
            }
        }
    }
    (found, true)
}

/// Sends a message and reads it again; returns what went over the wire.
fn again<T: Serialize + DeserializeOwned>(message: &T) -> String {
    let once = frame(message);
    let back: io::Result<T> = wire::receive(&once[..]);
    let twice = back.map(|message| frame(&message)).unwrap_or_default();
    assert_eq!(once, twice, "a message changes on its way");
    String::from_utf8_lossy(&once).into_owned()
}

fn frame(message: &impl Serialize) -> Vec<u8> {
    wire::frame(message).unwrap_or_default()
}
