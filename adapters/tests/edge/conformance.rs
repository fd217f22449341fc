//! RFC 6455 on `/echo`: at least one case of each group of the Autobahn suite that applies, for machines that cannot
//! run the suite itself (`scripts/autobahn`). Groups 12 and 13 are about compression, which is not offered.

use std::io::{Read, Write};

use adapters::edge::{EdgeOptions, Phase};

use crate::support::{Gateway, Raw, UPGRADE, request};
use crate::{silent, start};

/// First bytes of frames.
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
/// The first frame of a text, and those in the middle and at the end of any message.
const TEXT_BEGINS: u8 = 0x01;
const GOES_ON: u8 = 0x00;
const ENDS: u8 = 0x80;

/// What is sent in a case, and what comes back; a close frame as its first byte and its code.
struct Case {
    name: &'static str,
    sent: Vec<(u8, Vec<u8>)>,
    back: Vec<(u8, Vec<u8>)>,
}

fn frame(first: u8, payload: impl AsRef<[u8]>) -> (u8, Vec<u8>) {
    (first, payload.as_ref().to_vec())
}

fn closing(code: u16) -> (u8, Vec<u8>) {
    frame(CLOSE, code.to_be_bytes())
}

fn case(name: &'static str, sent: &[(u8, Vec<u8>)], back: &[(u8, Vec<u8>)]) -> Case {
    Case { name, sent: sent.to_vec(), back: back.to_vec() }
}

/// Groups 1 to 6 and 10: what is given back, and what a connection is closed for.
fn messages() -> Vec<Case> {
    let long = vec![b'*'; 65_536 + 7];
    let (empty, done) = (frame(TEXT, ""), closing(1000));
    let goodbye = closing(1000);
    let sound = |name, sent: &[(u8, Vec<u8>)], back: &[(u8, Vec<u8>)]| {
        let sent = [sent, std::slice::from_ref(&goodbye)].concat();
        case(name, &sent, &[back, std::slice::from_ref(&done)].concat())
    };
    let broken = |name, sent: &[(u8, Vec<u8>)], code| case(name, sent, &[closing(code)]);
    vec![
        sound("1.1.1 an empty text", std::slice::from_ref(&empty), std::slice::from_ref(&empty)),
        sound("1.2.3 126 bytes", &[frame(BINARY, [9; 126])], &[frame(BINARY, [9; 126])]),
        sound(
            "1.1.7 a text that leaves in fragments",
            &[frame(TEXT, &long)],
            &[frame(TEXT_BEGINS, &long[..65_536]), frame(ENDS, &long[65_536..])],
        ),
        sound("2.2 a ping with a payload", &[frame(PING, "x")], &[frame(PONG, "x")]),
        sound("2.4 a ping of 125 bytes", &[frame(PING, [0xfe; 125])], &[frame(PONG, [0xfe; 125])]),
        broken("2.5 a ping of 126 bytes", &[frame(PING, [1; 126])], 1002),
        sound("2.7 a pong that nobody asked for", &[frame(PONG, "x"), frame(PING, "y")], &[frame(PONG, "y")]),
        broken("3.1 the first reserved bit", &[frame(TEXT | 0x40, "x")], 1002),
        broken("3.5 all reserved bits of a ping", &[frame(PING | 0x70, "x")], 1002),
        broken("4.1.1 reserved opcode 3", &[frame(0x83, "x")], 1002),
        broken("4.2.1 reserved opcode 11", &[frame(0x8b, "")], 1002),
        broken("5.1 a ping in fragments", &[frame(0x09, "a"), frame(ENDS, "b")], 1002),
        sound("5.3 a text in fragments", &[frame(TEXT_BEGINS, "a"), frame(ENDS, "b")], &[frame(TEXT, "ab")]),
        sound(
            "5.6 a ping between fragments",
            &[frame(TEXT_BEGINS, "a"), frame(PING, "now"), frame(ENDS, "b")],
            &[frame(PONG, "now"), frame(TEXT, "ab")],
        ),
        broken("5.9 a continuation of nothing", &[frame(ENDS, "a")], 1002),
        case(
            "5.15 a continuation after the end",
            &[frame(TEXT_BEGINS, "a"), frame(ENDS, "b"), frame(GOES_ON, "c")],
            &[frame(TEXT, "ab"), closing(1002)],
        ),
        broken("5.18 a second beginning", &[frame(TEXT_BEGINS, "a"), frame(TEXT, "b")], 1002),
        sound(
            "6.2.3 a character split over fragments",
            &[frame(TEXT_BEGINS, [0xce]), frame(ENDS, [0xba])],
            &[frame(TEXT, "κ")],
        ),
        broken("6.3.1 no UTF-8", &[frame(TEXT, [0xce, 0xba, 0xed, 0xa0, 0x80])], 1007),
        broken(
            "6.4.1 no UTF-8 in a fragment, told before the end",
            &[frame(TEXT_BEGINS, [0xf4, 0x90, 0x80])],
            1007,
        ),
        broken("6.6 half a character at the end", &[frame(TEXT, [0xce])], 1007),
        sound("10.1.1 64 KiB in fragments of 1,300 bytes", &chopped(), &[frame(TEXT, vec![b'x'; 65_000])]),
    ]
}

fn chopped() -> Vec<(u8, Vec<u8>)> {
    let first = |index| {
        if index == 0 {
            TEXT_BEGINS
        } else if index == 49 {
            ENDS
        } else {
            GOES_ON
        }
    };
    (0..50).map(|index| frame(first(index), [b'x'; 1_300])).collect()
}

/// Group 7: which close frames are answered, and how.
fn closes() -> Vec<Case> {
    let mut cases = vec![
        case("7.1.2 two of them", &[closing(1000), closing(1000)], &[closing(1000)]),
        case("7.1.3 a ping after it", &[closing(1000), frame(PING, "x")], &[closing(1000)]),
        case("7.1.5 in a fragmented text", &[frame(TEXT_BEGINS, "a"), closing(1000)], &[closing(1000)]),
        case("7.3.1 without a code", &[frame(CLOSE, "")], &[frame(CLOSE, "")]),
        case("7.3.2 with half a code", &[frame(CLOSE, [3])], &[closing(1002)]),
        case(
            "7.3.6 124 bytes of reason",
            &[frame(CLOSE, [&[3, 232][..], &[b'*'; 124]].concat())],
            &[closing(1002)],
        ),
        case("7.5.1 a reason that is no UTF-8", &[frame(CLOSE, [3, 232, 0xce])], &[closing(1007)]),
    ];
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        cases.push(case("7.7 a valid code", &[closing(code)], &[closing(code)]));
    }
    for code in [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999] {
        cases.push(case("7.9 an invalid code", &[closing(code)], &[closing(1002)]));
    }
    cases
}

fn echoing() -> Gateway {
    Gateway::start(EdgeOptions { echoes: true, ..EdgeOptions::default() }, silent)
}

fn connect(gateway: &Gateway) -> Raw {
    let address = gateway.address;
    let (head, stream) = request(address, &format!("GET /echo HTTP/1.1\r\nHost: {address}\r\n{UPGRADE}\r\n"));
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    Raw { stream }
}

/// All that comes until the end, frame by frame. Of a close frame only the code is kept.
fn all(client: &mut Raw) -> Vec<(u8, Vec<u8>)> {
    let mut bytes = Vec::new();
    // A reset is an end, too: the other side need not read what was sent behind a mistake.
    let _ = client.stream.read_to_end(&mut bytes);
    let (mut rest, mut frames) = (bytes.as_slice(), Vec::new());
    while let [first, length, behind @ ..] = rest {
        assert_eq!(length & 0x80, 0, "a server masks nothing");
        let (length, behind) = match *length {
            126 => (usize::from(u16::from_be_bytes([behind[0], behind[1]])), &behind[2..]),
            127 => (u64::from_be_bytes(behind[..8].try_into().unwrap()) as usize, &behind[8..]),
            short => (usize::from(short), behind),
        };
        let (payload, next) = behind.split_at(length);
        let payload = if *first == CLOSE { &payload[..length.min(2)] } else { payload };
        frames.push(frame(*first, payload));
        rest = next;
    }
    frames
}

/// Each case ends with what the RFC says. By sending its frames and comparing all that comes back.
#[test]
fn frames_are_treated_as_the_rfc_says() {
    let gateway = echoing();
    for Case { name, sent, back } in messages().into_iter().chain(closes()) {
        let mut client = connect(&gateway);
        for (first, payload) in &sent {
            client.frame(*first, payload);
        }
        assert_eq!(all(&mut client), back, "{name}: {sent:02x?}");
    }
}

/// A frame that is not masked, as only servers send them, is a broken rule. By sending one.
#[test]
fn clients_have_to_mask() {
    let gateway = echoing();
    let mut client = connect(&gateway);
    client.stream.write_all(&[TEXT, 1, b'x']).unwrap();
    assert_eq!(all(&mut client), [closing(1002)]);
}

/// Without the option there is no such path, and none is offered while the gateway goes down. By asking for it.
#[test]
fn the_echo_is_there_only_where_it_is_wanted() {
    let ask = |gateway: &Gateway| {
        let address = gateway.address;
        request(address, &format!("GET /echo HTTP/1.1\r\nHost: {address}\r\n{UPGRADE}\r\n")).0
    };
    let gateway = start(silent);
    assert!(ask(&gateway).starts_with("HTTP/1.1 404"));
    let gateway = echoing();
    gateway.phase.send_replace(Phase::Draining);
    crate::support::until("draining", || ask(&gateway).starts_with("HTTP/1.1 503").then_some(()));
}
