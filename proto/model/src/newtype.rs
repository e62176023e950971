//! What ids and numbers have in common, written once: text forms, serde, conversions.

/// Serde as text, by `Display` and `FromStr`.
macro_rules! serde_as_text {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// An id that is a UUID, in its hyphenated form.
macro_rules! uuid_id {
    ($name:ident, $error:ident, $what:literal) => {
        impl $name {
            /// The id of these bits.
            #[must_use]
            pub const fn new(id: uuid::Uuid) -> Self {
                Self(id)
            }

            /// The bits.
            #[must_use]
            pub const fn uuid(&self) -> uuid::Uuid {
                self.0
            }
        }

        #[doc = concat!("The text is not ", $what, ".")]
        #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
        #[error("\"{0}\" is not {what}: a UUID such as 0192f0c1-7e2a-7cc3-98c4-dc0c0c07398f is expected", what = $what)]
        pub struct $error(String);

        impl std::str::FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                // Only the hyphenated form, so that equal ids are equal texts.
                let refused = || $error($crate::escape::shortened(text));
                if text.len() != 36 {
                    return Err(refused());
                }
                let id = uuid::Uuid::try_parse(text).ok().filter(|id| !id.is_nil());
                id.map(Self).ok_or_else(refused)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl From<$name> for uuid::Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl From<uuid::Uuid> for $name {
            fn from(id: uuid::Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        $crate::newtype::serde_as_text!($name);
    };
}

/// A number with a meaning.
macro_rules! number {
    ($name:ident) => {
        impl $name {
            /// The number with this value.
            #[must_use]
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The value.
            #[must_use]
            pub const fn value(self) -> u64 {
                self.0
            }

            /// The one after it.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }

        impl From<$name> for u64 {
            fn from(number: $name) -> Self {
                number.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

pub(crate) use {number, serde_as_text, uuid_id};
