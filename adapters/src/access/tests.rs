//! The rules of access, each by name. Rules on single parts are tested beside them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;

use super::devices::{Description, Devices, DevicesError, PAIRED_MAX, PENDING_MAX, PENDING_MS_MAX};
use super::login::{Admission, ClientClass, Login, LoginRefusal, PairingNews, PairingReason};
use super::proof::Proof;
use super::proof::tests::TestDevice;
use super::scopes::{Scope, Scopes};
use super::secret::{Secret, SecretError};
use super::*;

const NOW_MS: u64 = 1_795_241_982_744;
const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const HERE: Peer = Peer { source: IpAddr::V4(Ipv4Addr::LOCALHOST), is_proxied: false, is_browser: false };
const AWAY: Peer = Peer { source: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), ..HERE };

fn settings(mode: AuthMode, secret: &str) -> AccessSettings {
    let secret = (mode != AuthMode::None).then(|| Secret::new(secret).expect("a secret"));
    AccessSettings::new(mode, secret).expect("settings")
}

fn access(mode: AuthMode, secret: &str) -> Access {
    Access::new(&settings(mode, secret), Devices::in_memory()).expect("random numbers")
}

fn set(scopes: &[Scope]) -> Scopes {
    scopes.iter().copied().collect()
}

/// A login that shows nothing and wants everything.
fn nothing() -> Login<'static> {
    Login {
        nonce: "n",
        token: None,
        password: None,
        device_token: None,
        device: None,
        role: Role::Operator,
        wanted: Scopes::ALL,
        class: ClientClass::Other,
        description: Description::default(),
    }
}

/// The texts of a device and its proof, which the proof borrows.
struct Signed {
    id: String,
    key: String,
    signature: String,
    payloads: [String; 1],
}

impl Signed {
    fn new(seed: u8) -> Self {
        let (device, payloads) = (TestDevice::new(seed), ["v3|x".to_owned()]);
        Self { id: device.id(), key: device.public_key(), signature: device.sign(&payloads[0]), payloads }
    }

    fn proof(&self) -> Proof<'_> {
        Proof {
            id: &self.id,
            public_key: &self.key,
            signature: &self.signature,
            signed_at_ms: NOW_MS,
            nonce: "n",
            payloads: &self.payloads,
        }
    }
}

fn refusal(result: Result<Admission, LoginRefusal>) -> String {
    result.map_or_else(|error| error.to_string(), |admission| format!("{:?}", admission.identity.scopes))
}

/// What the bearer of an operator's scopes is.
fn operator(access: &Access, scopes: &[Scope]) -> Identity {
    Identity { role: Role::Operator, scopes: set(scopes), device: None, generation: access.generation() }
}

/// A secret that is blank, or missing where one is needed, is refused before anybody could use it.
#[test]
fn blank_secrets_are_refused() {
    for blank in ["", " ", "\t\n"] {
        assert_eq!(Secret::new(blank).err(), Some(SecretError::Blank), "{blank:?}");
    }
    for mode in [AuthMode::Token, AuthMode::Password] {
        assert_eq!(AccessSettings::new(mode, None).err(), Some(AccessSettingsError::SecretMissing(mode)));
    }
    let unused = AccessSettings::new(AuthMode::None, Some(Secret::new("x").expect("a secret")));
    assert_eq!(unused.err(), Some(AccessSettingsError::SecretUnused));
}

/// Nothing that prints a secret prints it. By printing all that hold one.
#[test]
fn secrets_are_not_printed() {
    let printed = format!("{:?} {:?}", settings(AuthMode::Token, TOKEN), access(AuthMode::Token, TOKEN));
    assert!(!printed.contains(TOKEN), "{printed}");
}

/// The right secret lets a bearer in with all scopes, anything else does not. One row for what is shown.
#[test]
fn a_bearer_needs_the_whole_secret() {
    let access = access(AuthMode::Token, TOKEN);
    let overlong = TOKEN.repeat(100);
    let rows = [
        (Some(TOKEN), None),
        (None, Some(AuthRefusal::Missing(AuthMode::Token))),
        (Some(""), Some(AuthRefusal::Missing(AuthMode::Token))),
        (Some(&TOKEN[1..]), Some(AuthRefusal::Mismatch(AuthMode::Token))),
        (Some("0123456789ABCDEF0123456789ABCDEF"), Some(AuthRefusal::Mismatch(AuthMode::Token))),
        (Some(&overlong), Some(AuthRefusal::Mismatch(AuthMode::Token))),
    ];
    for (shown, expected) in rows {
        let identity = access.check_secret(shown, &HERE, NOW_MS);
        assert_eq!(identity.as_ref().err(), expected.as_ref(), "{shown:?}");
        if let Ok(identity) = identity {
            assert_eq!((identity.role, identity.scopes), (Role::Operator, Scopes::ALL));
        }
    }
}

/// Without a secret, only this machine is let in, and a proxy on it is not this machine.
#[test]
fn mode_none_is_for_loopback_only() {
    let access = access(AuthMode::None, "");
    assert!(access.check_secret(None, &HERE, NOW_MS).is_ok_and(|identity| identity.scopes == Scopes::ALL));
    assert_eq!(access.check_secret(None, &AWAY, NOW_MS).err(), Some(AuthRefusal::NotLoopback));
    let proxied = Peer { is_proxied: true, ..HERE };
    assert_eq!(access.check_secret(None, &proxied, NOW_MS).err(), Some(AuthRefusal::NotLoopback));
    let away = "without a secret, only clients on this machine are let in";
    assert_eq!(refusal(access.log_in(&nothing(), &AWAY, NOW_MS)), away);
    assert_eq!(refusal(access.log_in(&nothing(), &Peer { is_proxied: true, ..HERE }, NOW_MS)), away);
    let wanted = Login { wanted: set(&[Scope::Read]), ..nothing() };
    assert_eq!(refusal(access.log_in(&wanted, &HERE, NOW_MS)), r#"{"operator.read"}"#);
}

/// 200 wrong logins with every optional field present are five guesses: none of the fields switches the limiter off,
/// and loopback does not either. By counting what comes back.
#[test]
fn dummy_fields_do_not_switch_the_limiter_off() {
    for peer in [HERE, AWAY] {
        let access = access(AuthMode::Password, "swordfish");
        let login = Login {
            token: Some("dummy"),
            password: Some("guess"),
            device_token: Some("dummy"),
            class: ClientClass::LocalProgram,
            ..nothing()
        };
        let mut guesses = 0;
        for _ in 0..200 {
            match access.log_in(&login, &peer, NOW_MS) {
                Err(LoginRefusal::Secret(AuthRefusal::Mismatch(_))) => guesses += 1,
                Err(LoginRefusal::Secret(AuthRefusal::RateLimited { retry_after_ms })) => {
                    assert_eq!(retry_after_ms, 60_000);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(guesses, 5, "{peer:?}");
        // A password that comes right beyond the budget is a guess like the others.
        let right = access.check_secret(Some("swordfish"), &peer, NOW_MS);
        assert_eq!(right.err(), Some(AuthRefusal::RateLimited { retry_after_ms: 60_000 }));
        let right = access.log_in(&Login { password: Some("swordfish"), ..nothing() }, &peer, NOW_MS);
        assert_eq!(refusal(right), "too many failed attempts, try again in 60000 ms");
        assert!(access.check_secret(Some("swordfish"), &peer, NOW_MS + 60_000).is_ok());
    }
}

/// Whoever guesses does not lock out the bearer of a full-length token, nor a device with its own, from the same
/// address. By using up every budget first.
#[test]
fn a_right_token_is_never_locked_out() {
    let access = access(AuthMode::Token, TOKEN);
    let signed = Signed::new(1);
    let device = Login { token: Some(TOKEN), device: Some(signed.proof()), ..nothing() };
    let issued = access.log_in(&device, &HERE, NOW_MS).expect("paired").issued.expect("a token");
    let forged = Signed::new(2);
    for _ in 0..20 {
        let bad = Proof { signature: &forged.signature, ..signed.proof() };
        assert!(access.log_in(&Login { device: Some(bad), ..nothing() }, &HERE, NOW_MS).is_err());
        assert!(access.log_in(&Login { token: Some("guess"), ..nothing() }, &HERE, NOW_MS).is_err());
        let device_guess = Login { device_token: Some("guess"), device: Some(signed.proof()), ..nothing() };
        assert!(access.log_in(&device_guess, &HERE, NOW_MS).is_err());
    }
    assert!(access.check_secret(Some(TOKEN), &HERE, NOW_MS).is_ok());
    let mine = Login { token: Some(&issued.token), device: Some(signed.proof()), ..nothing() };
    assert_eq!(
        access.log_in(&mine, &HERE, NOW_MS).map(|admission| admission.identity.scopes).ok(),
        Some(Scopes::ALL)
    );
}

/// That a field is there proves nothing: empty, garbage and foreign credentials are refused like none. One row each.
#[test]
fn presence_proves_nothing() {
    let access = access(AuthMode::Token, TOKEN);
    let (signed, other) = (Signed::new(1), Signed::new(2));
    let paired = Login { token: Some(TOKEN), device: Some(signed.proof()), ..nothing() };
    let issued = access.log_in(&paired, &HERE, NOW_MS).expect("paired").issued.expect("a token");
    let rows = [
        (nothing(), "device identity required"),
        (Login { token: Some(""), ..nothing() }, "device identity required"),
        (Login { device_token: Some(""), password: Some(" "), ..nothing() }, "device identity required"),
        (Login { token: Some("garbage"), ..nothing() }, "the token is wrong"),
        (Login { device: Some(signed.proof()), ..nothing() }, "a token is needed"),
        // Issued to another device, or shown without the device.
        (Login { device_token: Some(&issued.token), ..nothing() }, "the device token is wrong"),
        (
            Login { device_token: Some(&issued.token), device: Some(other.proof()), ..nothing() },
            "the device token is wrong",
        ),
        (Login { class: ClientClass::ControlUi, ..nothing() }, "control ui requires device identity"),
        (Login { token: Some(TOKEN), role: Role::Node, ..nothing() }, "device identity required"),
    ];
    for (login, expected) in rows {
        assert_eq!(refusal(access.log_in(&login, &HERE, NOW_MS)), expected, "{login:?}");
    }
}

/// Declared scopes give nothing to whom they do not belong: they are kept by programs of this machine only, however
/// loudly others declare admin. One row for who asks from where.
#[test]
fn declared_scopes_are_not_believed() {
    let access = access(AuthMode::Token, TOKEN);
    let all = format!("{:?}", Scopes::ALL);
    let rows = [
        (ClientClass::LocalProgram, HERE, all.as_str()),
        (ClientClass::LocalProgram, AWAY, "{}"),
        (ClientClass::LocalProgram, Peer { is_proxied: true, ..HERE }, "{}"),
        (ClientClass::LocalProgram, Peer { is_browser: true, ..HERE }, "{}"),
        (ClientClass::Other, HERE, "{}"),
        (ClientClass::ControlUi, HERE, "control ui requires device identity"),
    ];
    for (class, peer, expected) in rows {
        let login = Login { token: Some(TOKEN), class, ..nothing() };
        assert_eq!(refusal(access.log_in(&login, &peer, NOW_MS)), expected, "{class:?} {peer:?}");
    }
    let undeclared =
        Login { token: Some(TOKEN), class: ClientClass::LocalProgram, wanted: Scopes::NONE, ..nothing() };
    assert_eq!(refusal(access.log_in(&undeclared, &HERE, NOW_MS)), "{}");
}

/// Pairing is never silent: on loopback a valid secret pairs a device and says so; from elsewhere it waits for
/// somebody with the scopes that it wants. By letting the same device knock from both places.
#[test]
fn pairing_is_never_silent() {
    let access = access(AuthMode::Token, TOKEN);
    let (near, far) = (Signed::new(1), Signed::new(2));
    let wanted = set(&[Scope::Read]);
    let login =
        |signed| Login { token: Some(TOKEN), device: Some(Signed::proof(signed)), wanted, ..nothing() };
    let admission = access.log_in(&login(&near), &HERE, NOW_MS).expect("paired");
    assert!(matches!(admission.news, Some(PairingNews::PairedBySecret(wish)) if wish.id.as_str() == near.id));
    let again = access.log_in(&login(&near), &HERE, NOW_MS).expect("paired before");
    assert_eq!((again.news, again.issued), (None, None), "told once");

    let Err(LoginRefusal::Pairing { pending, reason, is_new: true }) =
        access.log_in(&login(&far), &AWAY, NOW_MS)
    else {
        panic!("let in from elsewhere");
    };
    assert_eq!((reason, access.devices(NOW_MS).0.len()), (PairingReason::NotPaired, 1));
    let stranger = operator(&access, &[Scope::Pairing]);
    let refused = access.approve_device(&pending.request_id, &stranger, NOW_MS);
    assert!(matches!(refused, Err(DevicesError::MissingScope(Scope::Read))));
    let reader = operator(&access, &[Scope::Pairing, Scope::Read]);
    access.approve_device(&pending.request_id, &reader, NOW_MS).expect("approved");
    let admission = access.log_in(&login(&far), &AWAY, NOW_MS).expect("paired");
    assert_eq!(admission.identity.scopes, wanted);
    assert_eq!(admission.identity.device.map(|id| id.as_str().to_owned()), Some(far.id.clone()));
}

/// A paired device gets no more than it was paired for, whatever it declares and whichever role it takes.
#[test]
fn a_device_stays_within_its_pairing() {
    let access = access(AuthMode::Token, TOKEN);
    let signed = Signed::new(1);
    let reader = set(&[Scope::Read]);
    let paired = Login { token: Some(TOKEN), device: Some(signed.proof()), wanted: reader, ..nothing() };
    let issued = access.log_in(&paired, &HERE, NOW_MS).expect("paired").issued.expect("a token");
    let with_token = |wanted, role| {
        let login = Login {
            device_token: Some(&issued.token),
            device: Some(signed.proof()),
            wanted,
            role,
            ..nothing()
        };
        access.log_in(&login, &HERE, NOW_MS)
    };
    assert_eq!(with_token(reader, Role::Operator).expect("let in").identity.scopes, reader);
    assert_eq!(with_token(Scopes::NONE, Role::Operator).expect("let in").identity.scopes, Scopes::NONE);
    for (wanted, role, expected) in [
        (set(&[Scope::Read, Scope::Admin]), Role::Operator, PairingReason::ScopeUpgrade),
        (Scopes::NONE, Role::Node, PairingReason::RoleUpgrade),
    ] {
        let refused = with_token(wanted, role);
        assert!(
            matches!(refused, Err(LoginRefusal::Pairing { reason, .. }) if reason == expected),
            "{expected:?}"
        );
    }
}

/// A new secret takes effect at once, on those that come and on those that are there.
#[test]
fn rotation_holds_at_once() {
    let access = access(AuthMode::Token, TOKEN);
    let old = access.check_secret(Some(TOKEN), &HERE, NOW_MS).expect("let in");
    let before = access.generation();
    assert!(access.holds(&old));
    let new = TOKEN.replace('0', "f");
    access.change(&settings(AuthMode::Token, &new));
    assert_ne!(access.generation(), before);
    assert!(!access.holds(&old));
    let refused = access.check_secret(Some(TOKEN), &HERE, NOW_MS);
    assert_eq!(refused.err(), Some(AuthRefusal::Mismatch(AuthMode::Token)));
    assert!(access.check_secret(Some(&new), &HERE, NOW_MS).is_ok_and(|identity| access.holds(&identity)));
}

/// Rotating, revoking and removing close the connections of that device and of no other, and its old token is worth
/// nothing. By doing each to one of two devices.
#[test]
fn a_device_is_closed_alone() {
    type Change = fn(&Access, &str);
    let changes: [(&str, Change); 3] = [
        ("rotate", |access, id| {
            let admin = operator(access, &[Scope::Admin]);
            access.rotate_token(id, Role::Operator, None, &admin, NOW_MS).expect("rotated");
        }),
        ("revoke", |access, id| drop(access.revoke_token(id, Role::Operator).expect("revoked"))),
        ("remove", |access, id| drop(access.remove_device(id).expect("removed"))),
    ];
    for (name, change) in changes {
        let access = access(AuthMode::Token, TOKEN);
        let (one, two) = (Signed::new(1), Signed::new(2));
        let login = |signed| Login { token: Some(TOKEN), device: Some(Signed::proof(signed)), ..nothing() };
        let first = access.log_in(&login(&one), &HERE, NOW_MS).expect("paired");
        let second = access.log_in(&login(&two), &HERE, NOW_MS).expect("paired");
        let generation = access.generation();
        change(&access, &one.id);
        assert_ne!(access.generation(), generation, "{name}");
        assert_eq!((access.holds(&first.identity), access.holds(&second.identity)), (false, true), "{name}");
        let token = first.issued.expect("a token").token;
        let old = Login { device_token: Some(&token), device: Some(one.proof()), ..nothing() };
        assert_eq!(refusal(access.log_in(&old, &HERE, NOW_MS)), "the device token is wrong", "{name}");
    }
}

/// Nobody gets a token for more than he may do, and a rotation can narrow.
#[test]
fn nobody_hands_out_what_he_does_not_have() {
    let access = access(AuthMode::Token, TOKEN);
    let signed = Signed::new(1);
    let login = Login { token: Some(TOKEN), device: Some(signed.proof()), ..nothing() };
    access.log_in(&login, &HERE, NOW_MS).expect("paired with all scopes");
    let weak = operator(&access, &[Scope::Pairing, Scope::Read]);
    let rotate = |scopes| access.rotate_token(&signed.id, Role::Operator, scopes, &weak, NOW_MS);
    assert!(matches!(rotate(None), Err(DevicesError::MissingScope(Scope::Write))));
    let (_, issued) = rotate(Some(set(&[Scope::Read]))).expect("narrowed");
    assert_eq!(issued.scopes, set(&[Scope::Read]));
    assert!(matches!(access.rename_device("nobody", "x"), Err(DevicesError::UnknownDevice(_))));
    assert!(matches!(access.reject_device("nothing", NOW_MS), Err(DevicesError::UnknownRequest(_))));
    assert!(matches!(access.revoke_token(&signed.id, Role::Node), Err(DevicesError::UnknownRole { .. })));
}

/// Devices outlive the process, tokens as digests only, in a file for its owner; a damaged file is no empty one.
#[test]
fn devices_are_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("devices.json");
    let signed = Signed::new(1);
    let open = || {
        Access::new(&settings(AuthMode::Token, TOKEN), Devices::open(&path).expect("devices"))
            .expect("access")
    };
    let login = Login { token: Some(TOKEN), device: Some(signed.proof()), ..nothing() };
    let issued = open().log_in(&login, &HERE, NOW_MS).expect("paired").issued.expect("a token");
    let text = fs::read_to_string(&path).expect("a file");
    assert!(text.contains(&signed.id) && !text.contains(&issued.token), "{text}");
    assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
    let with_token = Login { device_token: Some(&issued.token), device: Some(signed.proof()), ..nothing() };
    assert_eq!(open().log_in(&with_token, &AWAY, NOW_MS).expect("let in").identity.scopes, Scopes::ALL);
    let other_role = text.replace(r#""operator""#, r#""root""#);
    for damaged in [&text[..text.len() / 2], "", r#"{"version":2,"devices":[]}"#, &other_role] {
        fs::write(&path, damaged).expect("written");
        assert!(matches!(Devices::open(&path), Err(DevicesError::Damaged { .. })), "{damaged:?}");
    }
}

/// What cannot be kept does not happen: the device is not paired, and is told so. By taking the folder away.
#[test]
fn a_device_that_cannot_be_kept_is_not_paired() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("absent/devices.json");
    let devices = Devices::open(&path).expect("no devices");
    let access = Access::new(&settings(AuthMode::Token, TOKEN), devices).expect("access");
    let signed = Signed::new(1);
    let login = Login { token: Some(TOKEN), device: Some(signed.proof()), ..nothing() };
    let refused = access.log_in(&login, &HERE, NOW_MS);
    assert!(matches!(refused, Err(LoginRefusal::Devices(DevicesError::File { .. }))), "{refused:?}");
    assert_eq!(access.devices(NOW_MS).1, []);
}

/// Requests to be paired are bounded, expire, and keep their name while they wait for the same.
#[test]
fn waiting_devices_are_bounded() {
    let access = access(AuthMode::Token, TOKEN);
    let knock = |seed: usize, now_ms| {
        let signed = Signed::new(u8::try_from(seed).expect("a seed"));
        let proof = Proof { signed_at_ms: now_ms, ..signed.proof() };
        let login = Login { token: Some(TOKEN), device: Some(proof), ..nothing() };
        match access.log_in(&login, &AWAY, now_ms) {
            Err(LoginRefusal::Pairing { pending, .. }) => pending.request_id,
            other => panic!("{other:?}"),
        }
    };
    let first = knock(0, NOW_MS);
    assert_eq!(knock(0, NOW_MS + 1), first);
    (1..=PENDING_MAX).for_each(|seed| drop(knock(seed, NOW_MS + 2)));
    let (waiting, paired) = access.devices(NOW_MS + 2);
    assert_eq!((waiting.len(), paired.len()), (PENDING_MAX, 0));
    assert!(waiting.iter().all(|waiting| waiting.request_id != first), "the oldest gives way");
    assert_eq!(access.devices(NOW_MS + 2 + PENDING_MS_MAX).0, []);
}

/// Not more devices than the limit are paired. By pairing that many and one more.
#[test]
fn paired_devices_are_bounded() {
    let mut devices = Devices::in_memory();
    let wish = |number: usize| devices::Wish {
        id: devices::DeviceId::of_key(&number.to_le_bytes()),
        public_key: String::new(),
        description: Description::default(),
        role: Role::Operator,
        scopes: Scopes::NONE,
        source: HERE.source,
    };
    (0..PAIRED_MAX).for_each(|number| devices.pair(wish(number), NOW_MS).expect("room"));
    assert!(matches!(devices.pair(wish(PAIRED_MAX), NOW_MS), Err(DevicesError::TooMany)));
    assert!(devices.pair(wish(0), NOW_MS).is_ok(), "one that is paired already needs no room");
}

/// Who knocks while a device is being paired does not wait for the disk. By knocking, and asking who is paired, in the
/// middle of a change; with one lock for both this would never end.
#[test]
fn a_change_of_devices_holds_nobody_up() {
    let access = access(AuthMode::Token, TOKEN);
    let changed = access.change_devices(|draft| {
        assert!(access.check_secret(Some(TOKEN), &HERE, NOW_MS).is_ok());
        assert_eq!(access.devices(NOW_MS).1, draft.paired());
        Ok(draft.paired().len())
    });
    assert_eq!(changed.ok(), Some(0));
}
