//! Pages that the gateway makes and an edge only passes on: metrics and tables.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

/// Pages that may be in the making, all edges together.
pub const PAGES_MAX: usize = 32;
/// How long a page may take.
pub const PAGE_PATIENCE: Duration = Duration::from_secs(5);

/// Declares pages, once: an enum, their paths, and what they show.
macro_rules! pages {
    ($($(#[doc = $doc:literal])* $page:ident $path:literal,)*) => {
        /// Which page.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum PageName { $($(#[doc = $doc])* $page,)* }

        impl PageName {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$page,)*];

            /// Where it is found.
            pub fn path(self) -> &'static str {
                match self { $(Self::$page => $path,)* }
            }
        }
    };
}

pages! {
    /// Counters and latencies, for Prometheus.
    Metrics "/metrics",
    /// The gateway as a whole.
    Gateway "/varz",
    /// Agents, a page of them.
    Agents "/agentz",
    /// Connections, a page of them.
    Connections "/connz",
    /// Rings, a page of them.
    Rings "/ringz",
    /// Shards, a page of them.
    Shards "/shardz",
    /// Agents, as the API of OpenAI lists models; with `id`, one of them.
    Models "/v1/models",
}

impl PageName {
    /// The page at a path.
    pub fn at(path: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|page| page.path() == path)
    }
}

/// A page that is wanted.
#[derive(Debug)]
pub struct PageRequest {
    /// Which.
    pub page: PageName,
    /// What follows the question mark, as it came.
    pub query: String,
    /// Where it goes. One that nobody waits for any more is dropped.
    pub reply: oneshot::Sender<Page>,
}

/// A page as it is sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Of HTTP.
    pub status: u16,
    /// Of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

/// How edges ask for pages.
#[derive(Clone, Debug)]
pub struct PageDesk(mpsc::Sender<PageRequest>);

impl PageDesk {
    /// A desk, and where what is asked there arrives.
    pub fn open() -> (Self, mpsc::Receiver<PageRequest>) {
        let (sender, receiver) = mpsc::channel(PAGES_MAX);
        (Self(sender), receiver)
    }

    /// One at which nobody makes pages.
    pub fn closed() -> Self {
        Self::open().0
    }

    /// Asks for a page. `None`: too many are wanted, it took too long, or the gateway is going down.
    pub async fn ask(&self, page: PageName, query: String) -> Option<Page> {
        let (reply, made) = oneshot::channel();
        self.0.try_send(PageRequest { page, query, reply }).ok()?;
        tokio::time::timeout(PAGE_PATIENCE, made).await.ok()?.ok()
    }
}
