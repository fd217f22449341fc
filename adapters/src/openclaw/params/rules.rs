//! The tables of parameters, one for each method.
//!
//! The fields are those of the schema of the incumbent's 2026.9.1, and those that its clients send since. Fields that
//! the gateway does nothing with are in the tables too: a client that sends them is understood. `admin` marks what only
//! admins may set: what runs programs elsewhere than an agent does, or speaks in the gateway's own name.

use super::Kind::{Any, FlagOr, List, Map, Nullable, Object, OneOf, Text, Whole};
use super::{Field, Kind, Presence};
use crate::openclaw::method::Method;

/// The largest integer that all clients can tell from its neighbours.
pub const WHOLE_MAX: i64 = (1 << 53) - 1;
/// The longest list, where the incumbent names no limit.
pub const LIST_MAX: usize = 256;
/// The longest name, key or id, where the incumbent names no limit.
pub const NAME_CHARS_MAX: usize = 4_096;

/// The longest id of a request.
pub const ID_CHARS_MAX: usize = 256;

/// Any string.
pub const TEXT: Kind = text(0, usize::MAX);
/// A string that is not empty.
pub const NAME: Kind = text(1, NAME_CHARS_MAX);
/// A string that is not empty, as long as a frame may be.
const SAID: Kind = text(1, usize::MAX);
/// From zero on.
pub const COUNT: Kind = whole(0, WHOLE_MAX);
const POSITIVE: Kind = whole(1, WHOLE_MAX);
const FLAG: Kind = Kind::Flag;
const NUMBER: Kind = Kind::Number;

const fn text(chars_min: usize, chars_max: usize) -> Kind {
    Text { chars_min, chars_max }
}

const fn whole(min: i64, max: i64) -> Kind {
    Whole { min, max }
}

const fn list(of: &'static Kind, count_max: usize) -> Kind {
    List { of, count_max }
}

const fn must(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, presence: Presence::Required }
}

const fn may(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, presence: Presence::Optional }
}

const fn admin(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, presence: Presence::AdminOnly }
}

const PROVENANCE: Kind = Object(&[
    must("kind", OneOf(&["external_user", "inter_session", "internal_system"])),
    may("originSessionId", TEXT),
    may("sourceSessionKey", TEXT),
    may("sourceChannel", TEXT),
    may("sourceTool", TEXT),
    may("sourceRole", TEXT),
    may("sourcePromptPrefix", TEXT),
    may("jobId", TEXT),
    may("runId", TEXT),
]);
const TOOL_OVERRIDES: Kind =
    Object(&[may("mcpServers", Map), may("mcpToolsDeny", Map), may("skills", Map), may("webSearch", FLAG)]);
const DELIVERY_CONTEXT: Kind =
    Object(&[may("channel", TEXT), may("to", TEXT), may("accountId", TEXT), may("threadId", Any)]);
const INTENT: Kind = Object(&[
    must("kind", OneOf(&["session-goal-start"])),
    must("version", NUMBER),
    must("issuedAtMs", COUNT),
]);
const WORKER_RUNS: Kind = Object(&[
    must("bundleHash", text(64, 64)),
    must("openclawVersion", text(1, 128)),
    must("protocolFeatures", list(&text(1, 128), 64)),
    may("bundlePrewarm", POSITIVE),
]);

/// Programs that may connect.
pub const CLIENT_IDS: &[&str] = &[
    "webchat-ui",
    "openclaw-control-ui",
    "openclaw-browser-copilot",
    "openclaw-tui",
    "webchat",
    "cli",
    "gateway-client",
    "openclaw-macos",
    "openclaw-linux",
    "openclaw-ios",
    "openclaw-watchos",
    "openclaw-android",
    "node-host",
    "openclaw-worker",
    "test",
    "fingerprint",
    "openclaw-probe",
];
/// Modes of such programs.
pub const CLIENT_MODES: &[&str] = &["webchat", "cli", "ui", "backend", "node", "worker", "probe", "test"];

/// A request frame.
pub const REQUEST: &[Field] = &[
    must("type", OneOf(&["req"])),
    must("id", text(1, ID_CHARS_MAX)),
    must("method", text(1, 128)),
    may("params", Any),
    may("traceparent", text(0, 128)),
    may("expectedProfileId", text(1, 128)),
];

/// `client` of `connect`.
pub const CLIENT: &[Field] = &[
    must("id", OneOf(CLIENT_IDS)),
    may("displayName", NAME),
    must("version", NAME),
    may("buildId", text(1, 96)),
    must("platform", NAME),
    may("deviceFamily", NAME),
    may("modelIdentifier", NAME),
    may("timeZone", text(1, 64)),
    must("mode", OneOf(CLIENT_MODES)),
    may("instanceId", NAME),
];

/// `device` of `connect`.
pub const DEVICE: &[Field] = &[
    must("id", NAME),
    must("publicKey", NAME),
    must("signature", NAME),
    must("signedAt", COUNT),
    // Its absence has an error of its own.
    may("nonce", TEXT),
];

/// `auth` of `connect`.
pub const AUTH: &[Field] = &[
    may("token", TEXT),
    may("bootstrapToken", TEXT),
    may("deviceToken", TEXT),
    may("password", TEXT),
    may("approvalRuntimeToken", TEXT),
    may("agentRuntimeIdentityToken", TEXT),
];

/// Declares the tables with their names: `must` and `admin` before a field's name, or nothing where it is optional.
macro_rules! tables {
    ($($table:ident { $($presence:ident $name:literal: $kind:expr,)* })*) => {
        $(const $table: &[Field] = &[$($presence($name, $kind),)*];)*
    };
}

tables! {
    CHAT_SEND {
        must "sessionKey": text(1, 512), may "agentId": NAME, may "sessionId": NAME, must "message": TEXT,
        may "intent": INTENT, may "thinking": TEXT, may "fastMode": FlagOr("auto"),
        may "fastAutoOnSeconds": POSITIVE,
        may "queueMode": OneOf(&["steer", "followup", "collect", "interrupt"]), may "deliver": FLAG,
        may "originatingChannel": TEXT, may "originatingTo": TEXT, may "originatingAccountId": TEXT,
        may "originatingThreadId": TEXT, may "replyToId": NAME, may "attachments": list(&Map, LIST_MAX),
        may "toolBindings": Map, may "timeoutMs": COUNT, may "systemInputProvenance": PROVENANCE,
        may "systemProvenanceReceipt": TEXT, may "suppressCommandInterpretation": FLAG,
        may "expectedLeafEntryId": Nullable(&NAME), may "expectedSessionRoutingContract": NAME,
        may "expectedPermissionMode": Nullable(&OneOf(&["read-only", "guarded", "workspace", "full"])),
        may "expectedToolOverrides": Nullable(&TOOL_OVERRIDES), must "idempotencyKey": NAME,
        may "mentions": list(&Any, LIST_MAX), may "workContext": Any,
    }
    CHAT_ABORT {
        must "sessionKey": NAME, may "agentId": NAME, may "runId": NAME, may "preserveSideRuns": FLAG,
    }
    CHAT_RESUME {
        must "sessionKey": NAME, may "agentId": NAME, may "epoch": COUNT, may "offset": COUNT,
    }
    AGENT {
        must "message": SAID, may "agentId": NAME, admin "provider": TEXT, may "model": TEXT, may "to": TEXT,
        may "replyTo": TEXT, may "sessionId": TEXT, may "sessionKey": TEXT,
        may "expectedExistingSessionId": NAME, may "thinking": TEXT, may "deliver": FLAG,
        may "attachments": list(&Any, LIST_MAX), may "channel": TEXT, may "replyChannel": TEXT,
        may "accountId": TEXT, may "replyAccountId": TEXT, may "threadId": TEXT, may "groupId": TEXT,
        may "groupChannel": TEXT, may "groupSpace": TEXT, may "timeout": COUNT,
        may "bestEffortDeliver": FLAG, admin "lane": TEXT, admin "cwd": NAME,
        admin "cleanupBundleMcpOnRunEnd": FLAG, admin "modelRun": FLAG,
        admin "promptMode": OneOf(&["full", "minimal", "none"]), admin "extraSystemPrompt": TEXT,
        admin "bootstrapContextMode": OneOf(&["full", "lightweight"]),
        admin "bootstrapContextRunKind": OneOf(&["default", "heartbeat", "cron"]),
        admin "acpTurnSource": OneOf(&["manual_spawn"]), admin "internalRuntimeHandoffId": NAME,
        admin "internalExecutionIdentityRetry": FLAG,
        admin "internalExecutionIdentityRecoveryAttempt": POSITIVE,
        admin "execApprovalFollowupExpectedSessionId": NAME, admin "internalEvents": list(&Map, LIST_MAX),
        admin "inputProvenance": PROVENANCE, admin "suppressPromptPersistence": FLAG,
        admin "sessionEffects": OneOf(&["visible", "internal"]),
        admin "sourceReplyDeliveryMode": OneOf(&["automatic", "message_tool_only"]),
        admin "disableMessageTool": FLAG, admin "swarmCollector": FLAG, admin "swarmOutputSchema": Map,
        admin "forceRestartSafeTools": FLAG, admin "forceCodeModeTools": FLAG, may "voiceWakeTrigger": TEXT,
        must "idempotencyKey": NAME, may "label": text(1, 512),
    }
    AGENT_WAIT {
        must "runId": NAME, may "timeoutMs": COUNT,
    }
    SESSIONS_SEND {
        must "key": NAME, may "agentId": NAME, must "message": TEXT, may "thinking": TEXT,
        may "attachments": list(&Map, LIST_MAX), may "timeoutMs": COUNT, may "idempotencyKey": NAME,
        may "mentions": list(&Any, LIST_MAX),
    }
    SESSIONS_ABORT {
        may "key": NAME, may "runId": NAME, may "agentId": NAME, may "clearQueued": FLAG,
    }
    CHAT_HISTORY {
        must "sessionKey": NAME, may "agentId": NAME, may "cursor": TEXT, may "limit": whole(1, 1000),
        may "offset": COUNT, may "pendingBefore": POSITIVE, may "inputRunIds": list(&text(1, 256), 50),
        may "messageId": NAME, may "sessionId": NAME, may "maxChars": whole(1, 500000),
        may "maxBytes": whole(1024, WHOLE_MAX),
    }
    CHAT_INJECT {
        must "sessionKey": NAME, may "agentId": NAME, must "message": SAID, may "label": text(0, 100),
    }
    SESSIONS_LIST {
        may "limit": POSITIVE, may "offset": COUNT, may "activeMinutes": POSITIVE,
        may "requireLastInteraction": FLAG, may "sortBy": OneOf(&["updatedAt", "lastInteractionAt"]),
        may "includeGlobal": FLAG, may "includeUnknown": FLAG, may "configuredAgentsOnly": FLAG,
        may "includeDerivedTitles": FLAG, may "includeLastMessage": FLAG, may "label": text(1, 512),
        may "boardFace": OneOf(&["chat", "dashboard"]), may "creatorId": NAME, may "ownerId": NAME,
        may "ownerFirst": FLAG, may "involvingMe": FLAG, may "involvingProfileId": NAME,
        may "includePeople": FLAG, may "spawnedBy": NAME, may "agentId": NAME, may "search": TEXT,
        may "archived": FlagOr("all"), may "activeOnly": FLAG, may "excludeSubagents": FLAG,
        may "excludeCron": FLAG, may "excludeSystem": FLAG, may "includeActivitySummary": FLAG,
        may "projectId": NAME, may "workspaceDir": NAME, may "group": TEXT, may "pinned": FLAG,
        may "hasBoard": FLAG, may "profileRelation": Any,
    }
    SESSIONS_MESSAGES_SUBSCRIBE {
        must "key": NAME, may "agentId": NAME, may "includeApprovals": FLAG,
    }
    SESSIONS_MESSAGES_UNSUBSCRIBE {
        must "key": NAME, may "agentId": NAME,
    }
    SESSIONS_CREATE {
        may "key": NAME, may "idempotencyKey": NAME, may "agentId": NAME, may "label": text(1, 512),
        may "displayName": text(1, 500), may "category": text(1, 512), may "model": NAME,
        may "contextWindow": NAME, may "thinkingLevel": NAME, may "fastMode": FlagOr("auto"),
        admin "permissionMode": OneOf(&["read-only", "guarded", "workspace", "full"]),
        admin "toolOverrides": TOOL_OVERRIDES, admin "incognito": FLAG,
        may "visibility": OneOf(&["shared", "read-only", "suggest", "draft"]), admin "catalogId": NAME,
        may "parentSessionKey": NAME, admin "spawnDepth": POSITIVE, may "fork": FLAG,
        may "forkFrom": OneOf(&["last-completed"]), may "emitCommandHooks": FLAG, may "succeedsParent": FLAG,
        may "task": TEXT, may "message": TEXT, may "attachments": list(&Map, LIST_MAX),
        may "projectId": NAME, may "projectGitUrl": text(1, 2048), admin "worktree": FLAG,
        admin "worktreeBaseRef": NAME, admin "worktreeName": TEXT, admin "execNode": NAME, admin "cwd": NAME,
        may "titleSource": text(0, 1000), admin "agentRuntime": NAME, may "timeoutMs": COUNT,
        may "mentions": list(&Any, LIST_MAX), may "repository": Any,
        admin "worktreeSource": OneOf(&["empty"]),
    }
    SESSIONS_PATCH {
        must "key": NAME, may "agentId": NAME, may "expectedSessionId": NAME,
        may "expectedLifecycleRevision": NAME,
        may "expectedPermissionMode": Nullable(&OneOf(&["read-only", "guarded", "workspace", "full"])),
        may "expectedToolOverrides": Nullable(&TOOL_OVERRIDES),
        may "expectedMarkedUnreadAt": Nullable(&NUMBER), may "label": Nullable(&text(1, 512)),
        may "icon": Nullable(&TEXT), may "color": Nullable(&TEXT), may "category": Nullable(&text(1, 512)),
        may "boardFace": OneOf(&["chat", "dashboard"]), may "statusNote": Nullable(&text(0, 120)),
        may "attention": Nullable(&OneOf(&["hand", "key", "alert", "flag", "lock", "hourglass"])),
        may "ttlMinutes": whole(1, 120), may "archived": FLAG, may "pinned": FLAG, may "unread": FLAG,
        may "contextWindow": Nullable(&NAME), may "thinkingLevel": Nullable(&NAME), may "fastMode": Any,
        admin "toolOverrides": Nullable(&TOOL_OVERRIDES), may "verboseLevel": Nullable(&NAME),
        may "traceLevel": Nullable(&NAME), may "reasoningLevel": Nullable(&NAME), may "responseUsage": Any,
        admin "elevatedLevel": Nullable(&NAME), admin "execHost": Nullable(&NAME),
        admin "execSecurity": Nullable(&NAME), admin "execAsk": Nullable(&NAME),
        admin "execNode": Nullable(&NAME),
        admin "permissionMode": Nullable(&OneOf(&["read-only", "guarded", "workspace", "full"])),
        may "model": Nullable(&NAME), admin "completionOwnerSessionKey": Nullable(&NAME),
        admin "inheritedToolPolicyVersion": Nullable(&NUMBER),
        admin "inheritedToolAllow": Nullable(&list(&NAME, LIST_MAX)),
        admin "inheritedToolDeny": Nullable(&list(&NAME, LIST_MAX)), admin "sendPolicy": Any,
        admin "groupActivation": Any, may "expectedSandboxMode": Nullable(&OneOf(&["off"])),
        may "expectedNativeRuntimeConsent": Nullable(&NAME), may "autoLabel": Nullable(&text(1, 512)),
        may "boardPresentation": Nullable(&OneOf(&["split", "expanded"])),
        admin "sandboxMode": Nullable(&OneOf(&["off"])), admin "nativeRuntimeConsent": Nullable(&NAME),
        admin "agentRuntime": Nullable(&NAME),
    }
    SESSIONS_RESET {
        must "key": NAME, may "agentId": NAME, may "reason": OneOf(&["new", "reset"]),
        may "expectedSessionId": NAME,
    }
    SESSIONS_DELETE {
        must "key": NAME, may "agentId": NAME, may "deleteTranscript": FLAG, may "expectedSessionId": NAME,
        may "expectedLifecycleRevision": NAME, may "expectedSessionUpdatedAt": NUMBER,
        may "emitLifecycleHooks": FLAG, may "archivedOnly": FLAG,
    }
    SESSIONS_RESOLVE {
        may "key": NAME, may "sessionId": NAME, may "label": text(1, 512), may "shortId": NAME,
        may "slugHint": NAME, may "agentId": NAME, may "spawnedBy": NAME, may "includeGlobal": FLAG,
        may "includeUnknown": FLAG, may "allowMissing": FLAG, may "reference": Any,
    }
    SESSIONS_DESCRIBE {
        must "key": NAME, may "includeDerivedTitles": FLAG, may "includeLastMessage": FLAG,
        may "agentId": NAME,
    }
    AGENTS_CREATE {
        must "name": NAME, may "workspace": NAME, may "model": NAME, may "emoji": TEXT, may "avatar": TEXT,
    }
    AGENTS_UPDATE {
        must "agentId": NAME, may "name": NAME, may "workspace": NAME, may "model": Nullable(&NAME),
        may "emoji": TEXT, may "avatar": TEXT, may "agentRuntime": NAME,
    }
    AGENTS_DELETE {
        must "agentId": NAME, may "deleteFiles": FLAG,
    }
    AGENTS_FILES_LIST {
        must "agentId": NAME,
    }
    AGENTS_FILES_GET {
        must "agentId": NAME, must "name": NAME,
    }
    AGENTS_FILES_SET {
        must "agentId": NAME, must "name": NAME, must "content": TEXT, may "expectedHash": text(64, 64),
    }
    MODELS_LIST {
        may "agentId": NAME, may "includeProviderCapabilities": FLAG, may "preparedOnly": FLAG,
        may "refresh": FLAG, may "view": OneOf(&["default", "configured", "provider-config", "all"]),
    }
    CONFIG_SET {
        must "raw": SAID, may "baseHash": NAME,
    }
    CONFIG_PATCH {
        must "raw": SAID, may "baseHash": NAME, may "sessionKey": TEXT,
        may "deliveryContext": DELIVERY_CONTEXT, may "note": TEXT, may "restartDelayMs": COUNT,
        may "replacePaths": list(&NAME, 256),
    }
    CONFIG_APPLY {
        must "raw": SAID, may "baseHash": NAME, may "sessionKey": TEXT,
        may "deliveryContext": DELIVERY_CONTEXT, may "note": TEXT, may "restartDelayMs": COUNT,
    }
    CONFIG_SCHEMA_LOOKUP {
        must "path": text(1, 1024),
    }
    CRON_LIST {
        may "includeDisabled": FLAG, may "limit": whole(1, 200), may "offset": COUNT, may "query": TEXT,
        may "enabled": OneOf(&["all", "enabled", "disabled"]),
        may "scheduleKind": OneOf(&["all", "at", "every", "cron", "on-exit", "stream"]),
        may "lastRunStatus": OneOf(&["all", "ok", "error", "skipped", "unknown"]),
        may "trigger": OneOf(&["all", "conditional", "unconditional"]),
        may "sortBy": OneOf(&["nextRunAtMs", "updatedAtMs", "name"]), may "sortDir": OneOf(&["asc", "desc"]),
        may "agentId": NAME, may "compact": FLAG, may "includeDeliveryPreviews": FLAG,
        may "sessionKey": NAME, may "sessionAgentId": NAME,
    }
    CHANNELS_STATUS {
        may "probe": FLAG, may "timeoutMs": COUNT, may "channel": NAME,
    }
    DEVICE_PAIR_APPROVE {
        must "requestId": NAME,
    }
    DEVICE_PAIR_REJECT {
        must "requestId": NAME,
    }
    DEVICE_PAIR_REMOVE {
        must "deviceId": NAME,
    }
    DEVICE_PAIR_RENAME {
        must "deviceId": NAME, must "label": text(1, 64),
    }
    DEVICE_TOKEN_ROTATE {
        must "deviceId": NAME, must "role": NAME, may "scopes": list(&NAME, LIST_MAX),
    }
    DEVICE_TOKEN_REVOKE {
        must "deviceId": NAME, must "role": NAME,
    }
    SKILLS_STATUS {
        may "agentId": NAME, may "sessionKey": NAME,
    }
    LOGS_TAIL {
        may "cursor": COUNT, may "limit": whole(1, 5000), may "maxBytes": whole(1, 1000000),
    }
    TOOLS_CATALOG {
        may "agentId": NAME, may "includePlugins": FLAG,
    }
    TOOLS_EFFECTIVE {
        may "agentId": NAME, must "sessionKey": NAME,
    }
    SEND {
        must "to": NAME, may "message": TEXT, may "mediaUrl": TEXT, may "mediaUrls": list(&TEXT, LIST_MAX),
        may "buffer": TEXT, may "filename": TEXT, may "contentType": TEXT, may "asVoice": FLAG,
        may "gifPlayback": FLAG, may "channel": TEXT, may "accountId": TEXT, may "agentId": TEXT,
        may "replyToId": TEXT, may "threadId": TEXT, may "forceDocument": FLAG, may "silent": FLAG,
        may "parseMode": OneOf(&["HTML"]), may "sessionKey": TEXT, must "idempotencyKey": NAME,
    }
    CONNECT {
        must "minProtocol": POSITIVE, must "maxProtocol": POSITIVE, must "client": Object(CLIENT),
        may "caps": list(&NAME, LIST_MAX), may "commands": list(&NAME, LIST_MAX), may "computerUse": Any,
        may "workerRuns": WORKER_RUNS, may "permissions": Map, may "pathEnv": TEXT, may "role": NAME,
        may "scopes": list(&NAME, LIST_MAX), may "device": Object(DEVICE), may "auth": Object(AUTH),
        may "locale": TEXT, may "userAgent": TEXT, may "modelCatalog": Any,
    }
    HEALTH {
        may "probe": FLAG,
    }
    STATUS {
        may "includeChannelSummary": FLAG, may "includeCliProjection": FLAG,
    }
}

/// The fields of a method's parameters.
pub fn of(method: Method) -> &'static [Field] {
    match method {
        Method::Connect => CONNECT,
        Method::ChatSend => CHAT_SEND,
        Method::ChatAbort => CHAT_ABORT,
        Method::ChatResume => CHAT_RESUME,
        Method::Agent => AGENT,
        Method::AgentWait => AGENT_WAIT,
        Method::SessionsSend => SESSIONS_SEND,
        Method::SessionsAbort => SESSIONS_ABORT,
        Method::Health => HEALTH,
        Method::Status => STATUS,
        Method::ChatHistory => CHAT_HISTORY,
        Method::ChatInject => CHAT_INJECT,
        // A client may send the filter of its list along.
        Method::SessionsList | Method::SessionsSubscribe => SESSIONS_LIST,
        Method::SessionsMessagesSubscribe => SESSIONS_MESSAGES_SUBSCRIBE,
        Method::SessionsMessagesUnsubscribe => SESSIONS_MESSAGES_UNSUBSCRIBE,
        Method::SessionsCreate => SESSIONS_CREATE,
        Method::SessionsPatch => SESSIONS_PATCH,
        Method::SessionsReset => SESSIONS_RESET,
        Method::SessionsDelete => SESSIONS_DELETE,
        Method::SessionsResolve => SESSIONS_RESOLVE,
        Method::SessionsDescribe => SESSIONS_DESCRIBE,
        Method::AgentsCreate => AGENTS_CREATE,
        Method::AgentsUpdate => AGENTS_UPDATE,
        Method::AgentsDelete => AGENTS_DELETE,
        Method::AgentsFilesList => AGENTS_FILES_LIST,
        Method::AgentsFilesGet => AGENTS_FILES_GET,
        Method::AgentsFilesSet => AGENTS_FILES_SET,
        Method::ModelsList => MODELS_LIST,
        Method::ConfigSet => CONFIG_SET,
        Method::ConfigPatch => CONFIG_PATCH,
        Method::ConfigApply => CONFIG_APPLY,
        Method::ConfigSchemaLookup => CONFIG_SCHEMA_LOOKUP,
        Method::CronList => CRON_LIST,
        Method::ChannelsStatus => CHANNELS_STATUS,
        Method::DevicePairApprove => DEVICE_PAIR_APPROVE,
        Method::DevicePairReject => DEVICE_PAIR_REJECT,
        Method::DevicePairRemove => DEVICE_PAIR_REMOVE,
        Method::DevicePairRename => DEVICE_PAIR_RENAME,
        Method::DeviceTokenRotate => DEVICE_TOKEN_ROTATE,
        Method::DeviceTokenRevoke => DEVICE_TOKEN_REVOKE,
        Method::SkillsStatus => SKILLS_STATUS,
        Method::LogsTail => LOGS_TAIL,
        Method::ToolsCatalog => TOOLS_CATALOG,
        Method::ToolsEffective => TOOLS_EFFECTIVE,
        Method::Send => SEND,
        Method::SystemPresence
        | Method::LastHeartbeat
        | Method::AgentsList
        | Method::ConfigGet
        | Method::ConfigSchema
        | Method::CronStatus
        | Method::NodeList
        | Method::DevicePairList => &[],
    }
}
