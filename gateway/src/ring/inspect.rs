//! `ring inspect`: every word of both halves of one ring, and what waits in it.

use std::fmt::Write as _;
use std::io::Write;

use serde::Serialize;
use shm_transport::envelope::Kind;
use shm_transport::layout::ConfigPage;
use shm_transport::observe::{Direction, Rest, Sleeper, Unread, Words};
use shm_transport::record::{FLAG_CONTINUED, FLAG_FRAGMENT, Header, Poison};

use super::seen::{SeenRing, size};
use super::{RingError, Sight, Viewed};
use crate::table::{self, Align, print_json};

/// How many unread records of a direction are shown.
const RECORDS_MAX: usize = 32;

/// A ring with everything that is known of it.
#[derive(Serialize, Debug)]
struct Inspected {
    #[serde(flatten)]
    ring: SeenRing,
    halves: [Half; 2],
    /// What waits in each of the directions.
    unread: [Waiting; 2],
}

#[derive(Serialize, Debug)]
struct Half {
    writer: String,
    config: Config,
    words: ControlWords,
}

#[derive(Serialize, Debug)]
struct Config {
    capacity_bytes: u64,
    instance: u64,
    generation: u64,
    schema_hash: String,
    features_required: String,
    features_optional: String,
}

impl From<&ConfigPage> for Config {
    fn from(page: &ConfigPage) -> Self {
        Self {
            capacity_bytes: page.geometry.capacity_bytes(),
            instance: page.instance,
            generation: page.generation,
            schema_hash: format!("{:#018x}", page.schema_hash),
            features_required: format!("{:#x}", page.features_required),
            features_optional: format!("{:#x}", page.features_optional),
        }
    }
}

/// As found, the sets of bits in hexadecimal.
#[derive(Serialize, Debug)]
struct ControlWords {
    tail: u64,
    head: u64,
    sleep: u64,
    space_wanted: u64,
    epoch: u64,
    kinds: String,
    features: String,
    poison: u64,
    beat: u64,
}

impl From<&Words> for ControlWords {
    fn from(words: &Words) -> Self {
        let Words { tail, head, sleep, space_wanted, epoch, kinds, features, poison, beat } = *words;
        let (kinds, features) = (format!("{kinds:#x}"), format!("{features:#x}"));
        Self { tail, head, sleep, space_wanted, epoch, kinds, features, poison, beat }
    }
}

#[derive(Serialize, Debug)]
struct Waiting {
    from: String,
    to: String,
    records: Vec<Record>,
    /// What comes behind these records.
    rest: String,
}

#[derive(Serialize, Debug)]
struct Record {
    position: u64,
    kind: u16,
    kind_name: String,
    bytes: u32,
    flags: Vec<&'static str>,
}

impl From<&Header> for Record {
    fn from(header: &Header) -> Self {
        let kind_name = Kind::from_number(header.kind);
        let names = [(FLAG_FRAGMENT, "FRAGMENT"), (FLAG_CONTINUED, "CONTINUED")];
        Self {
            position: header.position,
            kind: header.kind,
            kind_name: kind_name.map_or_else(|| "unknown".to_owned(), |kind| format!("{kind:?}")),
            bytes: header.len,
            flags: names.into_iter().filter(|(flag, _)| header.flags & flag != 0).map(|(_, n)| n).collect(),
        }
    }
}

pub(super) fn run(sight: &mut Sight, name: &str, json: bool) -> Result<(), RingError> {
    let viewed = sight.find(name)?;
    let inspected = inspect(&viewed);
    let printed = if json {
        print_json(&inspected)
    } else {
        writeln!(std::io::stdout(), "{}", text(&inspected, &viewed).trim_end())
    };
    printed.map_err(RingError::Print)
}

fn inspect(viewed: &Viewed) -> Inspected {
    let [first, second] = &viewed.sides;
    let half = |writer: &String, page: &ConfigPage, words: &Words| Half {
        writer: writer.clone(),
        config: page.into(),
        words: words.into(),
    };
    let unread = |direction, from: &String, to: &String| {
        let Unread { records, rest } = viewed.link.unread(direction, RECORDS_MAX);
        Waiting {
            from: from.clone(),
            to: to.clone(),
            records: records.iter().map(Record::from).collect(),
            rest: describe(rest),
        }
    };
    let (pages, words) = (viewed.link.pages(), viewed.link.words());
    Inspected {
        ring: SeenRing::of(viewed),
        halves: [half(first, &pages[0], &words[0]), half(second, &pages[1], &words[1])],
        unread: [
            unread(Direction::FirstToSecond, first, second),
            unread(Direction::SecondToFirst, second, first),
        ],
    }
}

fn describe(rest: Rest) -> String {
    match rest {
        Rest::Nothing => "nothing".to_owned(),
        Rest::More { bytes } => format!("{bytes} bytes more"),
        Rest::Broken(poison) => format!("no record: {poison}"),
        Rest::Impossible(impossible) => impossible.to_string(),
        Rest::Moving => "records that are read faster than they can be shown; look again".to_owned(),
    }
}

fn text(inspected: &Inspected, viewed: &Viewed) -> String {
    let ring = &inspected.ring;
    let mut text = match ring.instance {
        Some(instance) => format!(
            "ring of agent {}: instance {instance}, generation {}, process {}\n",
            ring.name, ring.generation, ring.process_id
        ),
        None => format!("ring {} inside the gateway, process {}\n", ring.name, ring.process_id),
    };
    for (direction, waiting) in ring.directions.iter().zip(&inspected.unread) {
        let poison = direction.poison.map_or_else(String::new, |poison| format!(", poisoned: {poison}"));
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n{}: {} of {} in flight ({}), consumer {}, producer {}{poison}\n",
            direction.name(),
            direction.in_flight(),
            size(direction.capacity_bytes),
            direction.fill(),
            direction.consumer(),
            direction.producer(),
        );
        text.push_str(&unread(waiting));
    }
    for ((half, words), page) in inspected.halves.iter().zip(viewed.link.words()).zip(viewed.link.pages()) {
        text.push_str(&half_text(&half.writer, &words, page));
    }
    text
}

fn unread(waiting: &Waiting) -> String {
    if waiting.records.is_empty() {
        return format!("  unread  {}\n", waiting.rest);
    }
    let columns =
        [("UNREAD AT", Align::Right), ("KIND", Align::Left), ("BYTES", Align::Right), ("FLAGS", Align::Left)];
    let rows: Vec<_> = waiting
        .records
        .iter()
        .map(|record| {
            let kind = format!("{} ({})", record.kind, record.kind_name);
            [record.position.to_string(), kind, record.bytes.to_string(), record.flags.join(" ")]
        })
        .collect();
    let mut lines: Vec<_> = table::render(&columns, &rows).iter().map(|line| format!("  {line}\n")).collect();
    lines.push(format!("  then    {}\n", waiting.rest));
    lines.concat()
}

fn half_text(writer: &str, words: &Words, page: &ConfigPage) -> String {
    let config = Config::from(page);
    let sleeper = |sleeper: Sleeper, what: &str| match sleeper {
        Sleeper::Awake => "awake".to_owned(),
        Sleeper::Waits { seen } => format!("waits for {what} behind {seen}"),
    };
    let poison = match words.poison {
        0 => "reads".to_owned(),
        code => Poison::name(code).unwrap_or("unknown to this build").to_owned(),
    };
    let rows = [
        ("capacity", config.capacity_bytes.to_string(), size(config.capacity_bytes)),
        ("instance", config.instance.to_string(), String::new()),
        ("generation", config.generation.to_string(), String::new()),
        ("schema hash", config.schema_hash, String::new()),
        ("features required", config.features_required, String::new()),
        ("features optional", config.features_optional, String::new()),
        ("tail", words.tail.to_string(), if words.closed() { "closed" } else { "" }.to_owned()),
        ("head", words.head.to_string(), String::new()),
        ("sleep", words.sleep.to_string(), sleeper(words.sleeper(), "data")),
        ("space_wanted", words.space_wanted.to_string(), sleeper(words.room_sleeper(), "room")),
        ("epoch", words.epoch.to_string(), String::new()),
        ("kinds", format!("{:#x}", words.kinds), kinds(words.kinds)),
        ("features", format!("{:#x}", words.features), String::new()),
        ("poison", words.poison.to_string(), poison),
        ("beat", words.beat.to_string(), String::new()),
    ];
    let mut text = format!("\nwritten by {writer}\n");
    for (name, value, meaning) in rows {
        text.push_str(format!("  {name:<19}{value:<20}{meaning}").trim_end());
        text.push('\n');
    }
    text
}

/// The names of a set of kinds.
fn kinds(set: u64) -> String {
    let known = Kind::ALL.iter().filter(|kind| set & (1 << kind.number()) != 0);
    known.map(|kind| format!("{kind:?}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record is shown with the names of its kind and flags; a kind this build does not know is said to be.
    #[test]
    fn records_have_names() {
        let header = Header { len: 7, kind: 2, flags: FLAG_FRAGMENT | FLAG_CONTINUED, position: 64 };
        let record = Record::from(&header);
        assert_eq!((record.kind_name.as_str(), record.flags), ("Block", vec!["FRAGMENT", "CONTINUED"]));
        let record = Record::from(&Header { kind: 999, flags: 0, ..header });
        assert_eq!((record.kind_name.as_str(), record.flags), ("unknown", vec![]));
    }

    /// What comes behind the records is a sentence.
    #[test]
    fn the_rest_is_named() {
        let poison = Poison::Flags { position: 16, flags: 8 };
        let rows = [
            (Rest::Nothing, "nothing"),
            (Rest::More { bytes: 48 }, "48 bytes more"),
            (Rest::Broken(poison), "no record: record at 16 has unknown flags 0x0008"),
        ];
        for (rest, expected) in rows {
            assert_eq!(describe(rest), expected);
        }
        assert_eq!(kinds(0b1_0000_0100), "Block Message");
    }
}
