//! Connections that are not the gateway: strangers, who have said nothing yet, and observers.
//!
//! Both are few, and neither can keep the gateway waiting: when all seats for strangers are taken, the
//! oldest stranger goes. An observer is answered or sent away; nothing is queued for it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use rustix::process::Pid;

use crate::channel::{Channel, ChannelError, Sent, sentence};
use crate::control::{Event, Request, VERSION, negotiate};
use crate::roster::number;
use crate::view::{Answer, OBSERVERS_MAX, Question, SILENCE_MAX_MS};

/// The most strangers at a time.
const STRANGERS_MAX: usize = 8;
/// The most guests at a time.
pub(crate) const SEATS: usize = STRANGERS_MAX + OBSERVERS_MAX;
/// How long a connection may take to say who it is.
const GREETING_DEADLINE: Duration = Duration::from_secs(10);
/// How long an observer may be silent.
const SILENCE_MAX: Duration = Duration::from_millis(SILENCE_MAX_MS);

/// A connection that is not the gateway.
#[derive(Debug)]
struct Guest {
    channel: Channel,
    role: Role,
    /// When it came, or asked last.
    since: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Stranger,
    /// The gateway that a standby was kept for: nobody else has the other end of its socket.
    Expected,
    Observer,
}

impl Guest {
    fn deadline(&self) -> Instant {
        match self.role {
            Role::Stranger | Role::Expected => self.since + GREETING_DEADLINE,
            Role::Observer => self.since + SILENCE_MAX,
        }
    }
}

/// Who may become the gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Door {
    /// Whoever runs as the user of the keeper.
    Open,
    /// Nobody: the gateway with this process id is served.
    Serves(u32),
    /// Nobody but itself: this process was the gateway, and lives on; it might still write into the rings.
    Leaves(Pid),
    /// Nobody: the keeper ends its agents.
    Ending,
}

/// All of them, by seat.
#[derive(Debug)]
pub(crate) struct Guests {
    seats: [Option<Guest>; SEATS],
}

/// What came of looking at a guest.
#[derive(Debug)]
pub(crate) enum Came {
    /// Nothing that concerns others; it may be gone.
    Nothing,
    /// It is the gateway, and no guest any more.
    Gateway { channel: Channel, version: u32, process_id: u32 },
    /// An observer asks.
    Question(Question),
    /// A gateway that has no use for this keeper ends it.
    Shutdown { grace_ms: u64 },
}

impl Guests {
    pub(crate) fn new() -> Self {
        Self { seats: [const { None }; SEATS] }
    }

    fn count(&self, role: Role) -> usize {
        self.seats.iter().flatten().filter(|guest| guest.role == role).count()
    }

    /// Seats a stranger, in the place of the oldest one if there is no other, and says where.
    pub(crate) fn accept(&mut self, socket: OwnedFd, now: Instant) -> usize {
        let guest = Guest { channel: Channel::new(socket), role: Role::Stranger, since: now };
        let oldest = || {
            let strangers = self.seats.iter().enumerate().filter_map(|(seat, guest)| {
                let guest = guest.as_ref().filter(|guest| guest.role == Role::Stranger)?;
                Some((guest.since, seat))
            });
            strangers.min().map(|(_, seat)| seat)
        };
        let free = self.seats.iter().position(Option::is_none);
        let seat = if self.count(Role::Stranger) < STRANGERS_MAX { free } else { oldest() };
        let seat = seat.unwrap_or_else(|| unreachable!("observers alone do not fill all seats"));
        self.seats[seat] = Some(guest);
        seat
    }

    /// Seats the gateway that is to be served, and says where.
    pub(crate) fn expect(&mut self, socket: OwnedFd, now: Instant) -> usize {
        let seat = self.accept(socket, now);
        if let Some(guest) = &mut self.seats[seat] {
            guest.role = Role::Expected;
        }
        seat
    }

    /// The socket to watch.
    pub(crate) fn socket(&self, seat: usize) -> Option<BorrowedFd<'_>> {
        self.seats[seat].as_ref().map(|guest| guest.channel.as_fd())
    }

    /// Reads one message of a guest.
    pub(crate) fn listen(&mut self, seat: usize, door: Door, now: Instant) -> Came {
        let Some(guest) = &mut self.seats[seat] else { return Came::Nothing };
        match guest.role {
            Role::Stranger | Role::Expected => self.greet(seat, door, now),
            Role::Observer => match guest.channel.receive::<Question>() {
                Ok(None) => Came::Nothing,
                Ok(Some((question, _))) => {
                    guest.since = now;
                    Came::Question(question)
                }
                // Perhaps of a later version: it is told, and may ask something else.
                Err(error @ (ChannelError::Malformed { .. } | ChannelError::TooLarge { .. })) => {
                    self.answer(seat, &Answer::Refused { reason: sentence(&error) }, &[]);
                    Came::Nothing
                }
                Err(_gone) => {
                    self.seats[seat] = None;
                    Came::Nothing
                }
            },
        }
    }

    /// Reads the first words of a stranger.
    fn greet(&mut self, seat: usize, door: Door, now: Instant) -> Came {
        let Some(guest) = &mut self.seats[seat] else { return Came::Nothing };
        let reason = match guest.channel.receive::<Request>() {
            Ok(None) => return Came::Nothing,
            Ok(Some((Request::Hello { version_min, version_max, process_id, .. }, _))) => {
                match (refusal(door, guest), negotiate(version_min, version_max)) {
                    (Some(reason), _) => reason,
                    (None, None) => {
                        self.dismiss(seat, &Event::OtherVersion { version: VERSION });
                        return Came::Nothing;
                    }
                    (None, Some(version)) => {
                        let guest = self.seats[seat].take();
                        return guest.map_or(Came::Nothing, |Guest { channel, .. }| Came::Gateway {
                            channel,
                            version,
                            process_id,
                        });
                    }
                }
            }
            Ok(Some((Request::Shutdown { grace_ms }, _))) => match refusal(door, guest) {
                Some(reason) => reason,
                None => {
                    self.seats[seat] = None;
                    return Came::Shutdown { grace_ms };
                }
            },
            Ok(Some((Request::Observe { version_min, version_max, .. }, _))) => {
                match negotiate(version_min, version_max) {
                    None => format!(
                        "keeper speaks control version {VERSION}, the observer {version_min} to {version_max}"
                    ),
                    Some(_) if self.count(Role::Observer) >= OBSERVERS_MAX => {
                        format!("{OBSERVERS_MAX} observers look already, no more may; end one of them")
                    }
                    Some(version) => {
                        self.seat_observer(seat, version, now);
                        return Came::Nothing;
                    }
                }
            }
            Ok(Some(_)) => "the first request must be hello or observe".to_owned(),
            Err(error) => sentence(&error),
        };
        self.dismiss(seat, &Event::Refused { reason });
        Came::Nothing
    }

    /// Sends a stranger away.
    fn dismiss(&mut self, seat: usize, why: &Event) {
        if let Some(guest) = self.seats[seat].take() {
            // Whoever does not read it sees the end.
            let _ = guest.channel.send(why, &[]);
        }
    }

    fn seat_observer(&mut self, seat: usize, version: u32, now: Instant) {
        if let Some(guest) = &mut self.seats[seat] {
            (guest.role, guest.since) = (Role::Observer, now);
        }
        self.answer(seat, &Answer::Welcome { version, process_id: std::process::id() }, &[]);
    }

    /// Answers an observer. One that cannot take it, since it has not read earlier answers, is sent away.
    pub(crate) fn answer(&mut self, seat: usize, answer: &Answer, fds: &[BorrowedFd<'_>]) {
        let Some(guest) = &self.seats[seat] else { return };
        if !matches!(guest.channel.send(answer, fds), Ok(Sent::Now)) {
            self.seats[seat] = None;
        }
    }

    /// When somebody's time is up next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.seats.iter().flatten().map(Guest::deadline).min()
    }

    /// Sends those away whose time is up.
    pub(crate) fn expire(&mut self, now: Instant) {
        for seat in &mut self.seats {
            if seat.as_ref().is_some_and(|guest| guest.deadline() <= now) {
                *seat = None;
            }
        }
    }
}

/// Why this guest cannot be the gateway, if it cannot.
fn refusal(door: Door, guest: &Guest) -> Option<String> {
    let peer = match sockopt::socket_peercred(&guest.channel) {
        Ok(peer) => peer,
        Err(errno) => return Some(format!("the kernel does not say who asks: {errno}")),
    };
    match door {
        Door::Open => {}
        Door::Leaves(before) if before == peer.pid => {}
        Door::Leaves(before) => {
            return Some(format!("the gateway with process id {} has not ended yet", number(before)));
        }
        Door::Serves(other) => {
            return Some(format!("this keeper serves the gateway with process id {other}"));
        }
        Door::Ending => return Some("this keeper ends its agents, and then itself".to_owned()),
    }
    let own = rustix::process::geteuid();
    let other = (peer.uid != own && guest.role != Role::Expected).then_some(peer.uid)?;
    Some(format!("this keeper serves user {}, not user {}", own.as_raw(), other.as_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (Channel, OwnedFd) {
        let flags = SocketFlags::CLOEXEC;
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        (Channel::new(a), b)
    }

    fn observe() -> Request {
        let software = "test".to_owned();
        Request::Observe { version_min: VERSION, version_max: VERSION, process_id: 1, software }
    }

    fn say(channel: &Channel, message: &impl serde::Serialize) {
        assert_eq!(channel.send(message, &[]).unwrap(), Sent::Now);
    }

    /// Seats a guest that says it wants to look, and gives its end and its seat.
    fn observer(guests: &mut Guests, now: Instant) -> (Channel, usize) {
        let (client, socket) = pair();
        let seat = guests.accept(socket, now);
        say(&client, &observe());
        assert!(matches!(guests.listen(seat, Door::Serves(1), now), Came::Nothing));
        (client, seat)
    }

    fn answer(client: &mut Channel) -> Answer {
        client.receive().unwrap().expect("it was answered at once").0
    }

    /// As many observers as may be are welcome, one more is refused by name, and there is room again when
    /// one has gone.
    #[test]
    fn observers_are_few() {
        let (mut guests, now) = (Guests::new(), Instant::now());
        let mut clients: Vec<_> = (0..OBSERVERS_MAX).map(|_| observer(&mut guests, now)).collect();
        for (client, _) in &mut clients {
            assert!(matches!(answer(client), Answer::Welcome { version: VERSION, .. }));
        }
        let reason = "4 observers look already, no more may; end one of them".to_owned();
        assert_eq!(answer(&mut observer(&mut guests, now).0), Answer::Refused { reason });
        let (client, seat) = clients.remove(0);
        drop(client);
        assert!(matches!(guests.listen(seat, Door::Serves(1), now), Came::Nothing));
        assert!(guests.socket(seat).is_none());
        assert!(matches!(answer(&mut observer(&mut guests, now).0), Answer::Welcome { .. }));
    }

    /// However many connect and say nothing: who comes next is seated and heard, and the oldest goes.
    #[test]
    fn silent_strangers_keep_nobody_out() {
        let (mut guests, start) = (Guests::new(), Instant::now());
        let mut watching: Vec<_> = (0..OBSERVERS_MAX).map(|_| observer(&mut guests, start)).collect();
        let mut silent = Vec::new();
        for number in 0..3 * STRANGERS_MAX {
            let (client, socket) = pair();
            guests.accept(socket, start + Duration::from_millis(number as u64));
            silent.push(client);
        }
        let (client, socket) = pair();
        let seat = guests.accept(socket, start + Duration::from_secs(1));
        let software = "test".to_owned();
        say(&client, &Request::Hello { version_min: VERSION, version_max: VERSION, process_id: 5, software });
        let came = guests.listen(seat, Door::Open, start + Duration::from_secs(1));
        assert!(matches!(came, Came::Gateway { process_id: 5, .. }), "{came:?}");
        let gone = silent.iter_mut().filter_map(|client| client.receive::<Answer>().err()).count();
        assert_eq!(gone, 2 * STRANGERS_MAX + 1);
        for (client, seat) in &mut watching {
            assert!(matches!(answer(client), Answer::Welcome { .. }));
            say(client, &Question::Rings { after: None });
            assert!(matches!(
                guests.listen(*seat, Door::Serves(5), start),
                Came::Question(Question::Rings { .. })
            ));
        }
    }

    /// Strangers and observers go when they have been silent for too long, and no earlier; a question is no
    /// silence.
    #[test]
    fn the_silent_are_sent_away() {
        let (mut guests, start) = (Guests::new(), Instant::now());
        let (_stranger, socket) = pair();
        let stranger_seat = guests.accept(socket, start);
        let (client, seat) = observer(&mut guests, start);
        let moment = Duration::from_millis(1);
        assert_eq!(guests.deadline(), Some(start + GREETING_DEADLINE));
        guests.expire(start + GREETING_DEADLINE - moment);
        assert!(guests.socket(stranger_seat).is_some());
        guests.expire(start + GREETING_DEADLINE);
        assert!(guests.socket(stranger_seat).is_none());
        let asked = start + SILENCE_MAX - moment;
        say(&client, &Question::Rings { after: None });
        assert!(matches!(guests.listen(seat, Door::Serves(1), asked), Came::Question(_)));
        guests.expire(start + SILENCE_MAX);
        assert_eq!(guests.deadline(), Some(asked + SILENCE_MAX));
        guests.expire(asked + SILENCE_MAX);
        assert!(guests.socket(seat).is_none());
    }

    /// An observer that asks and does not read is sent away when its socket is full; one that says something
    /// else is told, and may go on.
    #[test]
    fn the_slow_are_sent_away() {
        let (mut guests, now) = (Guests::new(), Instant::now());
        let (mut client, seat) = observer(&mut guests, now);
        assert!(matches!(answer(&mut client), Answer::Welcome { .. }));
        say(&client, &Request::Shutdown { grace_ms: 0 });
        assert!(matches!(guests.listen(seat, Door::Serves(1), now), Came::Nothing));
        assert!(matches!(answer(&mut client), Answer::Refused { reason } if reason.contains("shutdown")));
        let rings = Answer::Rings { rings: Vec::new(), more: false };
        let answered = (0..100_000).take_while(|_| {
            guests.answer(seat, &rings, &[]);
            guests.socket(seat).is_some()
        });
        assert!(answered.count() < 100_000);
    }
}
