//! What a client may do: a closed set of scopes.

use std::fmt;

/// Declares the scopes with their names, once.
macro_rules! scopes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// One thing that an operator may do.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Scope { $($(#[$doc])* $name,)* }

        impl Scope {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// As on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The scope of this name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

scopes! {
    /// See sessions, agents and settings.
    Read = "operator.read",
    /// Talk to agents. Satisfies [`Scope::Read`] and [`Scope::Talk`].
    Write = "operator.write",
    /// Everything.
    Admin = "operator.admin",
    /// Decide on what agents ask leave for.
    Approvals = "operator.approvals",
    /// Answer what agents ask.
    Questions = "operator.questions",
    /// Let devices in and out.
    Pairing = "operator.pairing",
    /// Speak with an agent.
    Talk = "operator.talk",
    /// See the keys of speech services.
    TalkSecrets = "operator.talk.secrets",
}

/// A set of scopes.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// None at all.
    pub const NONE: Self = Self(0);
    /// Every scope there is.
    pub const ALL: Self = Self(u8::MAX);

    /// With this one too.
    pub fn with(self, scope: Scope) -> Self {
        Self(self.0 | 1 << scope as u8)
    }

    /// Whether this very scope is in the set.
    pub fn contains(self, scope: Scope) -> bool {
        self.0 & 1 << scope as u8 != 0
    }

    /// Whether what needs `scope` is allowed: admin satisfies everything, write satisfies read and talk.
    pub fn allow(self, scope: Scope) -> bool {
        self.contains(scope)
            || self.contains(Scope::Admin)
            || (matches!(scope, Scope::Read | Scope::Talk) && self.contains(Scope::Write))
    }

    /// Those of `wanted` that these scopes satisfy: a declaration can narrow what an identity may do, never widen it.
    pub fn narrowed_to(self, wanted: Self) -> Self {
        wanted.iter().filter(|&scope| self.allow(scope)).fold(Self::NONE, Self::with)
    }

    /// Whether these scopes satisfy all of `others`.
    pub fn cover(self, others: Self) -> bool {
        others.iter().all(|scope| self.allow(scope))
    }

    /// In the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |&scope| self.contains(scope))
    }

    /// Nothing is allowed.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        scopes.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Scope::name)).finish()
    }
}

const _: () = assert!(Scope::ALL.len() == 8, "a set of scopes is one byte, and ALL is all of its bits");
