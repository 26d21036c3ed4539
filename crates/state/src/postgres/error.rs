//! What an error of the server means for whoever asked.

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;
use windlass_core::run_store::StoreError;

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The connection is gone: nobody can tell what became of what was sent.
    Lost,
    /// The transaction was taken back and may go in if it is sent again.
    Again,
    /// A lock or the server was not free in time; nothing is in.
    Busy,
    /// A disk is full; nothing is in.
    Full,
    /// A shard is another host's by now.
    Fenced,
    /// Another connection of this host took over.
    Superseded,
    /// A row of that key is there already.
    Taken,
    /// A value that the server can't hold.
    Data,
    /// Anything else, such as a right that is missing; nothing is in.
    Refused,
}

pub(super) fn trouble(e: &Error) -> Trouble {
    let Some(code) = e.code() else {
        return Trouble::Lost;
    };
    if *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED {
        return Trouble::Again;
    }
    match (code.code(), &code.code()[..2]) {
        ("WL001", _) => Trouble::Fenced,
        ("WL002", _) => Trouble::Superseded,
        ("23505", _) => Trouble::Taken,
        ("53100", _) => Trouble::Full,
        // A timeout of a statement or a lock, and memory that ran out.
        ("57014" | "55P03", _) | (_, "53") => Trouble::Busy,
        // The server ends, or ended this connection.
        (_, "08" | "57" | "58" | "XX") | ("25P03" | "57P05", _) => Trouble::Lost,
        (_, "22" | "23" | "54") => Trouble::Data,
        _ => Trouble::Refused,
    }
}

/// Returns the error of a call that wrote nothing, or nothing that matters.
pub(super) fn failed(what: &str, e: Error) -> StoreError {
    let text = match trouble(&e) {
        Trouble::Lost => {
            format!("the connection to the database failed while it should {what}: try again")
        }
        Trouble::Refused => {
            format!("the database refused to {what}: see the set-up of its roles and schema")
        }
        _ => format!("the database could not {what}: try again"),
    };
    StoreError::unavailable(text).with_source(e)
}
