//! Who is connected: what the method and the event `presence` tell.
//!
//! Shared by all edges, which say who comes and who goes, and the gateway, which is in the list itself. What a client
//! says of itself is cut, and decides nothing. The list is made when it is asked for and has changed since.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// The most clients that the list names. Those who come when it is full are counted only. Every client gets the list when it
/// is let in, and keeps a buffer that holds it.
pub const ENTRIES_MAX: usize = 32;
/// The longest text of an entry.
pub const TEXT_BYTES_MAX: usize = 128;

/// One line of the list, `PresenceEntry` of the schema. Empty texts are left out.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Entry {
    /// What it runs on.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Where it connects from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ip: String,
    /// Of its software.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Its operating system.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// What kind of device it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device_family: String,
    /// Which model of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model_identifier: String,
    /// What kind of client it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mode: String,
    /// Why the entry is there.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The entry as a sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// Since when it is there, Unix milliseconds.
    pub ts: u64,
    /// The device that has signed, if one has.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device_id: String,
    /// In which roles it is here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<&'static str>,
    /// What it may do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<&'static str>,
    /// Names this run of its program.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub instance_id: String,
}

impl Entry {
    /// With every text cut.
    fn cut(mut self) -> Self {
        for text in [
            &mut self.host,
            &mut self.ip,
            &mut self.version,
            &mut self.platform,
            &mut self.device_family,
            &mut self.model_identifier,
            &mut self.mode,
            &mut self.reason,
            &mut self.text,
            &mut self.device_id,
            &mut self.instance_id,
        ] {
            let end = text.floor_char_boundary(TEXT_BYTES_MAX);
            text.truncate(end);
        }
        self
    }
}

/// Who is connected.
///
/// A lock, since it is off the hot path: it is held for as long as a list of [`ENTRIES_MAX`] takes.
#[derive(Debug)]
pub struct Presence(Mutex<List>);

#[derive(Debug)]
struct List {
    gateway: Entry,
    /// By connection.
    clients: BTreeMap<String, Entry>,
    /// Clients that came when the list was full, and are still there.
    unnamed: u64,
    version: u64,
    /// As JSON, until it changes.
    json: Option<Vec<u8>>,
}

impl Presence {
    /// Nobody but the gateway.
    pub fn new(gateway: Entry) -> Self {
        let gateway = gateway.cut();
        Self(Mutex::new(List { gateway, clients: BTreeMap::new(), unnamed: 0, version: 1, json: None }))
    }

    /// A client was let in. It is in the list until its [`Seat`] is dropped.
    #[must_use]
    pub fn join(self: &Arc<Self>, connection: &str, entry: Entry) -> Seat {
        let mut list = self.lock();
        let is_named = list.clients.len() < ENTRIES_MAX;
        if is_named {
            list.clients.insert(connection.to_owned(), entry.cut());
        } else {
            list.unnamed += 1;
        }
        list.changed();
        let connection = is_named.then(|| connection.to_owned());
        // Arc: the seat is kept by the connection, and gives itself back.
        Seat { presence: Arc::clone(self), connection }
    }

    /// Whether anybody but the gateway is connected.
    pub fn has_clients(&self) -> bool {
        let list = self.lock();
        list.unnamed > 0 || !list.clients.is_empty()
    }

    /// How often the list has changed. Never goes back.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// The list, the gateway first, as a JSON array.
    pub fn json(&self) -> Vec<u8> {
        let mut list = self.lock();
        if list.json.is_none() {
            list.json = Some(list.make());
        }
        list.json.clone().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        // Every change is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    fn changed(&mut self) {
        self.version += 1;
        self.json = None;
    }

    fn make(&self) -> Vec<u8> {
        let mut gateway = self.gateway.clone();
        if self.unnamed > 0 {
            gateway.text = format!("{} · {} more connected", gateway.text, self.unnamed);
        }
        let list: Vec<_> = std::iter::once(&gateway).chain(self.clients.values()).collect();
        // Texts and numbers can always be written.
        serde_json::to_vec(&list).unwrap_or_default()
    }
}

/// The place of a client in the list. Dropped, it is free.
#[derive(Debug)]
pub struct Seat {
    presence: Arc<Presence>,
    /// Absent if it is counted only.
    connection: Option<String>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut list = self.presence.lock();
        match &self.connection {
            Some(connection) => {
                list.clients.remove(connection);
            }
            None => list.unnamed = list.unnamed.saturating_sub(1),
        }
        list.changed();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn gateway() -> Arc<Presence> {
        let mode = "gateway".to_owned();
        Arc::new(Presence::new(Entry { mode, text: "Gateway".into(), ts: 7, ..Entry::default() }))
    }

    fn list(presence: &Presence) -> Value {
        serde_json::from_slice(&presence.json()).unwrap()
    }

    /// A client is in the list from its coming to its going, behind the gateway, and the version tells of both.
    #[test]
    fn clients_come_and_go() {
        let presence = gateway();
        let alone = json!([{"mode": "gateway", "text": "Gateway", "ts": 7}]);
        assert_eq!((list(&presence), presence.version()), (alone.clone(), 1));
        let entry = Entry {
            mode: "cli".into(),
            roles: vec!["operator"],
            ts: 9,
            device_id: "d".into(),
            ..Entry::default()
        };
        let seat = presence.join("c1", entry);
        let cli = json!({"mode": "cli", "roles": ["operator"], "ts": 9, "deviceId": "d"});
        assert_eq!((&list(&presence)[1], presence.version()), (&cli, 2));
        drop(seat);
        assert_eq!((list(&presence), presence.version()), (alone, 3));
    }

    /// Beyond the limit clients are counted only, texts are cut between characters, and both end with their clients.
    #[test]
    fn the_list_is_bounded() {
        let presence = gateway();
        let long = || Entry { host: format!("x{}", "ä".repeat(TEXT_BYTES_MAX)), ..Entry::default() };
        let mut seats: Vec<_> =
            (0..ENTRIES_MAX + 2).map(|index| presence.join(&format!("c{index}"), long())).collect();
        let full = list(&presence);
        assert_eq!(full.as_array().unwrap().len(), ENTRIES_MAX + 1);
        assert_eq!(full[0]["text"], "Gateway · 2 more connected");
        assert_eq!(full[1]["host"].as_str().unwrap().len(), TEXT_BYTES_MAX - 1);
        seats.truncate(ENTRIES_MAX - 1);
        let later = list(&presence);
        assert_eq!(later.as_array().unwrap().len(), ENTRIES_MAX);
        assert_eq!(later[0]["text"], "Gateway");
    }
}
