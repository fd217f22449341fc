//! What a client may do: a closed set of scopes.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

/// A list of names, as on the wire.
impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Scope::name))
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        let scope = |name: &String| {
            Scope::from_name(name).ok_or_else(|| D::Error::custom(format_args!("unknown scope {name:?}")))
        };
        names.iter().map(scope).collect()
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Scope::name)).finish()
    }
}

const _: () = assert!(Scope::ALL.len() == 8, "a set of scopes is one byte, and ALL is all of its bits");

#[cfg(test)]
mod tests {
    use super::*;

    /// A declaration narrows and never widens, and what a scope satisfies can be declared under it. One row a rule.
    #[test]
    fn a_declaration_never_widens() {
        use Scope::{Admin, Approvals, Pairing, Read, Talk, TalkSecrets, Write};
        let rows: &[(&[Scope], &[Scope], &[Scope])] = &[
            (&[Read], &[Admin], &[]),
            (&[Read], &[Read, Write], &[Read]),
            (&[Write], &[Read, Talk, Write], &[Read, Talk, Write]),
            (&[Write], &[TalkSecrets, Approvals, Pairing], &[]),
            (&[Admin], &[Read, Pairing], &[Read, Pairing]),
            (&[], &[Admin, Read], &[]),
            (&[Read], &[], &[]),
        ];
        for (held, wanted, got) in rows {
            let set = |scopes: &[Scope]| scopes.iter().copied().collect::<Scopes>();
            assert_eq!(set(held).narrowed_to(set(wanted)), set(got), "{held:?} declaring {wanted:?}");
            assert_eq!(set(held).cover(set(wanted)), set(got) == set(wanted), "{held:?} covering {wanted:?}");
        }
    }

    /// Every scope is found by its name, and nothing else is. By going there and back.
    #[test]
    fn scopes_are_a_closed_set() {
        for &scope in Scope::ALL {
            assert_eq!(Scope::from_name(scope.name()), Some(scope));
        }
        assert_eq!(Scope::from_name("operator.root"), None);
        assert_eq!(Scopes::ALL.iter().count(), Scope::ALL.len());
        assert!(
            serde_json::from_str::<Scopes>(r#"["operator.root"]"#)
                .is_err_and(|e| e.to_string().contains("root"))
        );
    }
}
