//! A keeper that was found or started, before it has been heard.

use std::path::PathBuf;

use super::{Client, StartError};

/// What [`Client::connect_or_begin`] has found.
#[derive(Debug)]
pub enum Found {
    /// A keeper that has told what it holds.
    Running(Client),
    /// One that was started, on this socket, and has not said anything yet.
    Started(Client, PathBuf),
}

impl Found {
    /// Waits for the first words of a keeper that was started.
    pub fn meet(self) -> Result<Client, StartError> {
        match self {
            Self::Running(client) => Ok(client),
            Self::Started(mut client, path) => {
                // A new keeper holds nothing.
                client.greet(&path, &mut |_| {})?;
                Ok(client)
            }
        }
    }
}
