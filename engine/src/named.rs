//! Enums whose values have a name for people: value, number and name stand in one line.

/// Declares such an enum, with all of its values in order and the name of each.
macro_rules! named {
    (
        $(#[$head:meta])*
        pub enum $enum:ident { $($(#[$doc:meta])* $value:ident $(= $number:literal)? $text:literal,)* }
    ) => {
        $(#[$head])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $enum { $($(#[$doc])* $value $(= $number)?,)* }

        impl $enum {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$value,)*];

            /// Its name, for people and pages.
            pub fn name(self) -> &'static str {
                match self { $(Self::$value => $text,)* }
            }

            /// The one with this name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$value),)* _ => None }
            }
        }
    };
}

pub(crate) use named;
