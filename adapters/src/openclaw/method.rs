//! Which methods there are, who serves them, and who may call them: a closed table.

use crate::access::scopes::Scope;

/// Who serves a method.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Server {
    /// The connection itself: what concerns nobody else.
    Conversation,
    /// The edge, with the shards: what is a turn of an agent.
    Edge,
    /// The gateway: [`Backend::call`](super::backend::Backend::call).
    Backend,
}

/// What a client needs to call a method.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// To be let in.
    Nothing,
    /// This scope.
    Scope(Scope),
    /// This scope, or admin for some parameters.
    AdminForSome(Scope),
}

/// Declares the methods with their names, needs and servers, once.
macro_rules! methods {
    ($($name:ident = $text:literal, $need:expr, $server:ident;)*) => {
        /// A method of the protocol.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "each is named as on the wire")]
        pub enum Method { $($name,)* }

        impl Method {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// As on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The method of this name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$name),)* _ => None }
            }

            /// What a client needs to call it.
            pub fn need(self) -> Need {
                match self { $(Self::$name => $need,)* }
            }

            /// Who serves it.
            pub fn server(self) -> Server {
                match self { $(Self::$name => Server::$server,)* }
            }
        }
    };
}

const FREE: Need = Need::Nothing;
const READ: Need = Need::Scope(Scope::Read);
const WRITE: Need = Need::Scope(Scope::Write);
const ADMIN: Need = Need::Scope(Scope::Admin);
const PAIRING: Need = Need::Scope(Scope::Pairing);
const WRITE_OR_ADMIN: Need = Need::AdminForSome(Scope::Write);

methods! {
    Connect = "connect", FREE, Conversation;

    ChatSend = "chat.send", WRITE, Edge;
    ChatAbort = "chat.abort", WRITE, Edge;
    ChatResume = "chat.resume", READ, Edge;
    Agent = "agent", WRITE_OR_ADMIN, Edge;
    AgentWait = "agent.wait", WRITE, Edge;
    SessionsSend = "sessions.send", WRITE, Edge;
    SessionsAbort = "sessions.abort", WRITE, Edge;

    Health = "health", FREE, Backend;
    Status = "status", READ, Backend;
    SystemPresence = "system-presence", READ, Backend;
    LastHeartbeat = "last-heartbeat", READ, Backend;
    ChatHistory = "chat.history", READ, Backend;
    ChatInject = "chat.inject", ADMIN, Backend;
    SessionsList = "sessions.list", READ, Backend;
    SessionsSubscribe = "sessions.subscribe", READ, Conversation;
    SessionsMessagesSubscribe = "sessions.messages.subscribe", READ, Conversation;
    SessionsMessagesUnsubscribe = "sessions.messages.unsubscribe", READ, Conversation;
    SessionsCreate = "sessions.create", WRITE_OR_ADMIN, Backend;
    SessionsPatch = "sessions.patch", WRITE_OR_ADMIN, Backend;
    SessionsReset = "sessions.reset", ADMIN, Backend;
    SessionsDelete = "sessions.delete", WRITE_OR_ADMIN, Backend;
    SessionsResolve = "sessions.resolve", READ, Backend;
    SessionsDescribe = "sessions.describe", READ, Backend;
    AgentsList = "agents.list", READ, Backend;
    AgentsCreate = "agents.create", ADMIN, Backend;
    AgentsUpdate = "agents.update", ADMIN, Backend;
    AgentsDelete = "agents.delete", ADMIN, Backend;
    AgentsFilesList = "agents.files.list", READ, Backend;
    AgentsFilesGet = "agents.files.get", READ, Backend;
    AgentsFilesSet = "agents.files.set", ADMIN, Backend;
    ModelsList = "models.list", READ, Backend;
    ConfigGet = "config.get", READ, Backend;
    ConfigSet = "config.set", ADMIN, Backend;
    ConfigPatch = "config.patch", ADMIN, Backend;
    ConfigApply = "config.apply", ADMIN, Backend;
    ConfigSchema = "config.schema", READ, Backend;
    ConfigSchemaLookup = "config.schema.lookup", READ, Backend;
    CronList = "cron.list", READ, Backend;
    CronStatus = "cron.status", READ, Backend;
    ChannelsStatus = "channels.status", READ, Backend;
    NodeList = "node.list", READ, Backend;
    DevicePairList = "device.pair.list", PAIRING, Backend;
    DevicePairApprove = "device.pair.approve", PAIRING, Backend;
    DevicePairReject = "device.pair.reject", PAIRING, Backend;
    DevicePairRemove = "device.pair.remove", PAIRING, Backend;
    DevicePairRename = "device.pair.rename", PAIRING, Backend;
    DeviceTokenRotate = "device.token.rotate", PAIRING, Backend;
    DeviceTokenRevoke = "device.token.revoke", PAIRING, Backend;
    SkillsStatus = "skills.status", READ, Backend;
    LogsTail = "logs.tail", READ, Backend;
    ToolsCatalog = "tools.catalog", READ, Backend;
    ToolsEffective = "tools.effective", READ, Backend;
    Send = "send", WRITE, Backend;
}

/// A set of methods.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct MethodSet(u128);

const _: () = assert!(Method::ALL.len() <= 128, "a set of methods is one number of 128 bits");

impl MethodSet {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// Of these.
    pub const fn of(methods: &[Method]) -> Self {
        let (mut set, mut index) = (0, 0);
        while index < methods.len() {
            set |= 1 << methods[index] as u8;
            index += 1;
        }
        Self(set)
    }

    /// With those of another set too.
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether it is in the set.
    pub fn contains(self, method: Method) -> bool {
        self.0 & 1 << method as u8 != 0
    }

    /// In the order of [`Method::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Method> {
        Method::ALL.iter().copied().filter(move |&method| self.contains(method))
    }
}

impl std::fmt::Debug for MethodSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter().map(Method::name)).finish()
    }
}
