//! Calls and turns of some connections at once, each of which waits for one answer after the other.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use super::client::{Client, source};
use super::server::cpu_time;
use crate::ring::endpoint::{nanoseconds, new_histogram};

/// Calls that are not counted, of each connection.
const WARM_UP: u64 = 20;

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// A method without parameters.
    Method(&'static str),
    /// A turn of the built-in agent, in a session of the connection.
    Turn,
}

/// What was found.
pub struct Answers {
    /// Of every answer.
    pub latency: Histogram<u64>,
    /// Per second.
    pub rate: f64,
    /// Of the gateway's process and its children's, for each answer.
    pub cpu_us: f64,
}

/// Asks over so many connections for so long.
pub async fn measure(
    port: u16,
    processes: &[u32],
    asked: Asked,
    connections: usize,
    duration: Duration,
) -> io::Result<Answers> {
    let latency = Rc::new(RefCell::new(new_histogram()?));
    let mut clients = Vec::with_capacity(connections);
    for index in 0..connections {
        let mut client = Client::hello(source(0), port).await?;
        let session = format!("agent:echo:load-{index}-{connections}");
        if asked == Asked::Turn {
            let subscribe = format!(
                "{{\"type\":\"req\",\"id\":\"s\",\"method\":\"sessions.messages.subscribe\",\"params\":{{\"key\":\"{session}\"}}}}"
            );
            client.call(subscribe.as_bytes()).await?;
        }
        for number in 0..WARM_UP {
            ask(&mut client, asked, &session, number).await?;
        }
        clients.push((client, session));
    }
    let cpu_before = cpu_time(processes)?;
    let begun = Instant::now();
    let end = begun + duration;
    let mut tasks = JoinSet::new();
    for (mut client, session) in clients {
        let latency = Rc::clone(&latency);
        tasks.spawn_local(async move {
            let mut number = WARM_UP;
            while Instant::now() < end {
                let took = ask(&mut client, asked, &session, number).await?;
                latency.borrow_mut().saturating_record(nanoseconds(took));
                number += 1;
            }
            Ok::<(), io::Error>(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.map_err(io::Error::other)??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = cpu_time(processes)?.saturating_sub(cpu_before);
    let latency = latency.borrow().clone();
    #[expect(clippy::cast_precision_loss, reason = "answers stay below 2^53")]
    let count = latency.len() as f64;
    Ok(Answers { rate: count / seconds, cpu_us: cpu.as_secs_f64() * 1e6 / count.max(1.0), latency })
}

async fn ask(client: &mut Client, asked: Asked, session: &str, number: u64) -> io::Result<Duration> {
    match asked {
        Asked::Method(method) => {
            let request =
                format!("{{\"type\":\"req\",\"id\":\"{number}\",\"method\":\"{method}\",\"params\":{{}}}}");
            client.call(request.as_bytes()).await
        }
        Asked::Turn => client.turn(session, &format!("{session}-{number}")).await,
    }
}

/// So many connections that come and ask at the same moment: how many were answered, and when the last one was.
pub async fn burst(port: u16, connections: usize) -> (usize, Duration) {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        tasks.spawn_local(async move {
            let mut client = Client::hello(source(0), port).await?;
            ask(&mut client, Asked::Method("health"), "", 0).await
        });
    }
    let mut answered = 0;
    while let Some(task) = tasks.join_next().await {
        answered += usize::from(task.is_ok_and(|outcome| outcome.is_ok()));
    }
    (answered, begun.elapsed())
}
