//! Connections of the admin socket: lines in, lines out, with a limit on everything.

use std::sync::Arc;
use std::time::Duration;

use ::sessions::{ExportFormat, Query};
use engine::events::EventMask;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::{Error, Line, Listening};
use super::events::{Subscription, Told, names};
use super::order::LifecycleAnswer;
use super::request::sessions::SessionRequest;
use super::request::{Complaint, ErrorCode, Request, parse};
use super::sessions::{self, ExportLine, Exporting, Piece};
use super::{
    Admin, CONNECTIONS_MAX, EVENT_PATIENCE, LINE_BYTES_MAX, LINE_PATIENCE, VERSION, agents, dead_letters,
    explain, lifecycle, stats,
};
use crate::rpc::now_ms;

/// How long nobody is accepted after that did not work: descriptors come back in time.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The client is gone, or takes no more.
struct Gone;

/// A line that says how many events there was no room for.
#[derive(Serialize)]
struct MissedLine {
    v: u64,
    missed: u64,
}

/// Accepts for as long as the runtime goes on.
pub(super) async fn accept(listener: UnixListener, admin: Arc<Admin>) {
    // Arc: each connection gives its permit back.
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_AGAIN).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            refuse(&stream);
            continue;
        };
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            // `Gone` is the way in which connections end.
            let _ = talk(stream, &admin).await;
            drop(permit);
        });
    }
}

/// Says why, if that can be said at once.
fn refuse(stream: &UnixStream) {
    let message = format!("{CONNECTIONS_MAX} connections are open already; try again");
    let line = line_of(&Err::<(), _>(Complaint::new(ErrorCode::Busy, message)));
    // A new connection has room for a line; without it the client sees the end only.
    let _ = stream.try_write(&line);
}

async fn talk(stream: UnixStream, admin: &Admin) -> Result<(), Gone> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        match timeout(LINE_PATIENCE, next_line(&mut read, &mut line)).await {
            Ok(Ok(())) => {}
            Ok(Err(Some(complaint))) => return say(&mut write, &Err::<(), _>(complaint)).await,
            Ok(Err(None)) => return Err(Gone),
            Err(_) => {
                let message = format!("no whole line within {} s", LINE_PATIENCE.as_secs());
                return say(&mut write, &Err::<(), _>(Complaint::new(ErrorCode::Timeout, message))).await;
            }
        }
        match parse(&line) {
            Ok(Request::Session(SessionRequest::Export { key, format })) => {
                export(&mut write, admin, key, format).await?;
            }
            Ok(Request::Events { mask }) => return stream_events(&mut read, &mut write, admin, mask).await,
            Ok(request) => answer(&mut write, admin, request).await?,
            Err(complaint) => say(&mut write, &Err::<(), _>(complaint)).await?,
        }
    }
}

/// A whole line without its end. `None`: there is no further one.
async fn next_line(read: &mut BufReader<OwnedReadHalf>, line: &mut Vec<u8>) -> Result<(), Option<Complaint>> {
    let count = read.take(LINE_BYTES_MAX as u64).read_until(b'\n', line).await.map_err(|_| None)?;
    match line.pop() {
        Some(b'\n') => Ok(()),
        _ if count == LINE_BYTES_MAX => {
            let message = format!("the line has more than {LINE_BYTES_MAX} bytes");
            Err(Some(Complaint::new(ErrorCode::TooLong, message)))
        }
        _ => Err(None),
    }
}

async fn answer(write: &mut OwnedWriteHalf, admin: &Admin, request: Request) -> Result<(), Gone> {
    match request {
        Request::Explain(sought) => say(write, &explain::run(admin, sought).await).await,
        Request::List { offset, limit, wanted } => {
            say(write, &dead_letters::list(admin, offset, limit, &wanted).await).await
        }
        Request::Show { turn } => say(write, &dead_letters::show(admin, turn).await).await,
        Request::Replay { which, dry_run } => {
            say(write, &dead_letters::replay(admin, &which, dry_run).await).await
        }
        Request::Drop { which } => say(write, &dead_letters::forget(admin, &which).await).await,
        Request::Stats { offset } => say(write, &stats::run(admin, offset).await).await,
        Request::Agents { offset, wanted } => say(write, &agents::list(admin, offset, wanted).await).await,
        Request::Act { name, act } => say(write, &agents::act(admin, name, act).await).await,
        Request::Reload(kind) => say(write, &agents::reload(admin, kind).await).await,
        Request::Lifecycle(kind) => {
            // The gateway may go once this is dropped.
            let (answer, _said) = lifecycle::run(admin, kind).await;
            match answer {
                Ok(LifecycleAnswer::Status(status)) => say(write, &Ok(status)).await,
                Ok(LifecycleAnswer::Going(going)) => say(write, &Ok(going)).await,
                Err(complaint) => say(write, &Err::<(), _>(complaint)).await,
            }
        }
        Request::Session(request) => of_sessions(write, admin, request).await,
        Request::Events { .. } => unreachable!("its caller streams them"),
    }
}

async fn of_sessions(write: &mut OwnedWriteHalf, admin: &Admin, request: SessionRequest) -> Result<(), Gone> {
    let key = match &request {
        SessionRequest::Get { key } | SessionRequest::Delete { key, .. } | SessionRequest::Reset { key } => {
            Some(key.clone())
        }
        SessionRequest::Commit { key } => key.clone(),
        _ => None,
    };
    let key = match key {
        None => None,
        Some(key) => match sessions::named(admin, key).await {
            Ok(key) => Some(key),
            Err(complaint) => return say(write, &Err::<(), _>(complaint)).await,
        },
    };
    match (request, key) {
        (SessionRequest::List { offset, limit, agent, search, archived }, _) => {
            let archived = Some(archived);
            let query = Query { limit, offset, agent, search, archived, ..Query::default() };
            say(write, &sessions::page(admin, query).await).await
        }
        (SessionRequest::Archive { older_than_ms, agent, dry_run }, _) => {
            let before_ms = now_ms().saturating_sub(older_than_ms);
            say(write, &sessions::archive(admin, before_ms, agent, dry_run).await).await
        }
        (SessionRequest::Commit { .. }, key) => say(write, &sessions::commit(admin, key).await).await,
        (SessionRequest::Get { .. }, Some(key)) => say(write, &sessions::one(admin, key).await).await,
        (SessionRequest::Delete { erase, .. }, Some(key)) => {
            say(write, &sessions::delete(admin, key, erase).await).await
        }
        (SessionRequest::Reset { .. }, Some(key)) => say(write, &sessions::reset(admin, key).await).await,
        (_, None) | (SessionRequest::Export { .. }, _) => {
            unreachable!("each of these has a key; exports are streamed")
        }
    }
}

/// Passes a transcript on, piece by piece, as fast as the client takes it.
async fn export(
    write: &mut OwnedWriteHalf,
    admin: &Admin,
    key: String,
    format: ExportFormat,
) -> Result<(), Gone> {
    let found = match sessions::named(admin, key).await {
        // One that is not there is refused at once, and not after a beginning.
        Ok(key) => sessions::one(admin, key).await,
        Err(complaint) => Err(complaint),
    };
    let key = match found {
        Ok(info) => info.key,
        Err(complaint) => return say(write, &Err::<(), _>(complaint)).await,
    };
    say(write, &Ok(Exporting { key: key.clone() })).await?;
    let mut pieces = sessions::export(admin, key, format);
    while let Some(piece) = pieces.recv().await {
        let line = ExportLine { v: VERSION, ..ExportLine::default() };
        let line = match piece {
            Piece::Chunk(chunk) => ExportLine { chunk: Some(chunk), ..line },
            Piece::End(rows) => ExportLine { end: Some(rows), ..line },
            Piece::Failed(Complaint { code, message, field }) => {
                ExportLine { error: Some(Error { code: code.name().to_owned(), message, field }), ..line }
            }
        };
        send(write, &json_line(&line), EVENT_PATIENCE).await?;
    }
    Ok(())
}

/// Passes events on until the client closes, or says anything more.
async fn stream_events(
    read: &mut BufReader<OwnedReadHalf>,
    write: &mut OwnedWriteHalf,
    admin: &Admin,
    mask: EventMask,
) -> Result<(), Gone> {
    let mut subscription = match Subscription::start(admin, mask) {
        Ok(subscription) => subscription,
        Err(complaint) => return say(write, &Err::<(), _>(complaint)).await,
    };
    say(write, &Ok(Listening { types: names(mask) })).await?;
    loop {
        let told = tokio::select! {
            told = subscription.next() => told.ok_or(Gone)?,
            _ = read.read_u8() => return Err(Gone),
        };
        let line = match told {
            Told::Event(line) => line,
            Told::Missed(missed) => json_line(&MissedLine { v: VERSION, missed }),
        };
        tokio::select! {
            written = send(write, &line, EVENT_PATIENCE) => written?,
            _ = read.read_u8() => return Err(Gone),
        }
    }
}

async fn say<T: Serialize>(write: &mut OwnedWriteHalf, said: &Result<T, Complaint>) -> Result<(), Gone> {
    send(write, &line_of(said), LINE_PATIENCE).await
}

async fn send(write: &mut OwnedWriteHalf, line: &[u8], patience: Duration) -> Result<(), Gone> {
    match timeout(patience, write.write_all(line)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Gone),
    }
}

fn line_of<T: Serialize>(said: &Result<T, Complaint>) -> Vec<u8> {
    json_line(&match said {
        Ok(answer) => Line { v: VERSION, ok: Some(answer), error: None },
        Err(Complaint { code, message, field }) => {
            let error =
                Error { code: code.name().to_owned(), message: message.clone(), field: field.clone() };
            Line { v: VERSION, ok: None, error: Some(error) }
        }
    })
}

fn json_line(value: &impl Serialize) -> Vec<u8> {
    // Text and numbers can always be written.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    debug_assert!(line.len() <= LINE_BYTES_MAX, "an answer has {} bytes", line.len());
    line
}
