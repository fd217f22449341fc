//! What clients are told without asking: who is connected, and how the gateway is.
//!
//! Looked at once a second, so that ten thousand clients that come back at once are told of in one event and not in ten
//! thousand; less often where the list goes to so many that it would take what they need to come back.

use std::sync::Arc;
use std::time::Duration;

use adapters::edge::EdgeShared;
use adapters::edge::events::Event;
use adapters::openclaw::event::EventName;
use tokio::time::{Instant, MissedTickBehavior};

/// The events that the gateway tells: the first two here, those of sessions in [`super::sessions`], the last by the control
/// thread.
pub const EVENTS: [EventName; 5] = [
    EventName::Presence,
    EventName::Health,
    EventName::SessionsChanged,
    EventName::SessionMessage,
    EventName::ConfigChanged,
];
/// How often it is looked who is connected.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of lists a second, for all clients together: where there are more, they are told less often.
const LISTS_BYTES_PER_LOOK: u64 = 2 << 20;
/// How often it is told how the gateway is.
const HEALTH_INTERVAL: Duration = Duration::from_secs(60);

/// Tells for as long as the runtime goes on.
pub async fn run(edges: Arc<EdgeShared>) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut presence_told = edges.presence.version();
    let mut presence_at = Instant::now();
    let mut health_at = Instant::now() + HEALTH_INTERVAL;
    loop {
        look.tick().await;
        let version = edges.backend.state_version();
        if version.presence != presence_told && Instant::now() >= presence_at {
            presence_told = version.presence;
            let list = edges.backend.presence();
            let payload = [b"{\"presence\":".as_slice(), &list, b"}"].concat();
            presence_at = Instant::now() + pause(&edges, payload.len());
            tell(&edges, EventName::Presence, payload);
        }
        if Instant::now() >= health_at {
            health_at += HEALTH_INTERVAL;
            tell(&edges, EventName::Health, edges.backend.health());
        }
    }
}

/// For how long nothing is told after a list of so many bytes.
fn pause(edges: &EdgeShared, list_bytes: usize) -> Duration {
    let bytes = edges.sum(|stats| &stats.connections) * list_bytes as u64;
    LOOK * u32::try_from(bytes / LISTS_BYTES_PER_LOOK).unwrap_or(u32::MAX).min(60)
}

fn tell(edges: &EdgeShared, name: EventName, payload: Vec<u8>) {
    let state_version = Some(edges.backend.state_version());
    edges.publish(Event { state_version, ..Event::plain(name, payload) });
}
