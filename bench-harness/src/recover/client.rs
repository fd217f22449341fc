//! A client of a gateway, agents of which are killed, or which is.

use std::io;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// The longest that recovery may take before a run is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest that a connection may take before another one is tried.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// Between one attempt that fails and the next.
const RETRY: Duration = Duration::from_millis(1);
/// Between messages to an agent that was killed.
const PERIOD: Duration = Duration::from_millis(1);
/// The most of them: no second message helps where so many do not.
const MESSAGES_MAX: u64 = 5_000;

/// How long it took, from just before the kill.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Until a message was acknowledged.
    pub acknowledged: Duration,
    /// Until an agent had replied to it.
    pub replied: Duration,
}

/// One connection.
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Client {
    /// Connects to a gateway that runs.
    pub async fn connect(port: u16) -> io::Result<Self> {
        let connecting = timeout(ATTEMPT_MAX, connect_async(format!("ws://127.0.0.1:{port}")));
        let (socket, _) = connecting.await?.map_err(io::Error::other)?;
        Ok(Self { socket })
    }

    /// Kills an agent that has just replied, and sends to its successor until that has replied.
    pub async fn outlive_agent(&mut self, agent: &str, process_id: u32) -> io::Result<Duration> {
        self.converse(agent).await?;
        let killed = kill(process_id)?;
        let mut ticks = interval(PERIOD);
        // An open loop: what could not be sent in time is sent at once.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let after = format!("{agent}-after-");
        let mut sent = 0;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            tokio::select! {
                _ = ticks.tick(), if sent < MESSAGES_MAX => {
                    sent += 1;
                    self.send(agent, &format!("{after}{sent}")).await?;
                }
                // What is left of agents killed before is heard and passed over.
                ended = self.ended(|id| id.starts_with(&after)) => {
                    if ended? {
                        return Ok(killed.elapsed());
                    }
                }
                () = tokio::time::sleep_until(deadline) => {
                    return Err(late(&format!("agent {agent} has no successor that replies")));
                }
            }
        }
    }

    /// Kills the gateway of this client, and tries until the next one has acknowledged a message.
    pub async fn outlive_gateway(mut self, port: u16, process_id: u32) -> io::Result<Times> {
        self.converse("echo").await?;
        let killed = kill(process_id)?;
        drop(self);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut tries = 0u64;
        loop {
            tries += 1;
            let trying = async {
                let mut client = Self::connect(port).await?;
                client.send("echo", &format!("after-{tries}")).await?;
                client.times(killed).await
            };
            match timeout_at(deadline, trying).await {
                Ok(Ok(times)) => return Ok(times),
                // Nobody is there yet, or it was the one who has died.
                Ok(Err(_)) => sleep(RETRY).await,
                Err(_) => return Err(late("no gateway acknowledges a message")),
            }
        }
    }

    /// Sends to an agent until it has replied.
    async fn converse(&mut self, agent: &str) -> io::Result<()> {
        let conversing = async {
            for tries in 1u64.. {
                let id = format!("{agent}-before-{tries}");
                self.send(agent, &id).await?;
                if self.ended(|ended| ended == id).await? {
                    break;
                }
                sleep(RETRY).await;
            }
            Ok(())
        };
        timeout(PATIENCE, conversing).await.map_err(|_| late(&format!("agent {agent} does not reply")))?
    }

    async fn send(&mut self, agent: &str, id: &str) -> io::Result<()> {
        let frame = json!({
            "type": "message", "agent": agent, "id": id, "sessionId": id, "content": "x", "metadata": {"ack": true},
        });
        self.socket.send(Message::text(frame.to_string())).await.map_err(io::Error::other)
    }

    /// Hears the acknowledgement and the reply of the one message that was sent.
    async fn times(&mut self, killed: Instant) -> io::Result<Times> {
        loop {
            let frame = self.frame().await?;
            if frame["type"] == "status" && frame["content"]["state"] == "accepted" {
                let acknowledged = killed.elapsed();
                return if self.ended(|_| true).await? {
                    Ok(Times { acknowledged, replied: killed.elapsed() })
                } else {
                    Err(io::Error::other("what was acknowledged is refused"))
                };
            }
            if frame["type"] == "error" {
                return Err(io::Error::other(frame["content"].to_string()));
            }
        }
    }

    /// Hears the end of a message with such an id: `true` if it is a reply, `false` if it is to be sent again later, as
    /// where the agent is about to be started again.
    async fn ended(&mut self, is_meant: impl Fn(&str) -> bool) -> io::Result<bool> {
        loop {
            let frame = self.frame().await?;
            if !frame["id"].as_str().is_some_and(&is_meant) {
                continue;
            }
            match (frame["type"].as_str(), frame["content"]["retryable"].as_bool()) {
                (Some("message"), _) => return Ok(true),
                (Some("error"), Some(true)) => return Ok(false),
                (Some("error"), _) => return Err(io::Error::other(frame["content"].to_string())),
                _ => {}
            }
        }
    }

    async fn frame(&mut self) -> io::Result<Value> {
        loop {
            match timeout(PATIENCE, self.socket.next()).await? {
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text).map_err(io::Error::other);
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

fn late(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} within {} s", PATIENCE.as_secs()))
}

/// Kills a process, and waits until the kernel says that it is dead. When that began.
pub fn kill(process_id: u32) -> io::Result<Instant> {
    let process = i32::try_from(process_id).ok().and_then(Pid::from_raw);
    let process = process.ok_or_else(|| io::Error::other(format!("{process_id} is no process")))?;
    let pidfd = pidfd_open(process, PidfdFlags::empty())?;
    let begun = Instant::now();
    kill_process(process, Signal::KILL)?;
    let longest = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    if poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&longest))? == 0 {
        return Err(late(&format!("process {process_id} does not die")));
    }
    Ok(begun)
}
