//! Ids as types, so that one cannot be taken for another.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::{Code, Error, Result};

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// A new random id (version 4).
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            /// From its 16 bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// Its 16 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl FromStr for $name {
            type Err = Error;
            /// Lower or upper case, with hyphens only.
            fn from_str(text: &str) -> Result<Self> {
                if text.len() != 36 {
                    return Err(Error::new(
                        Code::ArgumentInvalid,
                        concat!("not a ", stringify!($name), ": a UUID is expected"),
                    ));
                }
                Uuid::try_parse(text).map(Self).map_err(|e| {
                    Error::new(
                        Code::ArgumentInvalid,
                        concat!("not a ", stringify!($name), ": a UUID is expected"),
                    )
                    .caused_by(e)
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

uuid_id!(
    /// The public id of a token: may be logged and listed.
    TokenId
);
uuid_id!(
    /// One of the up to five secrets of a token.
    SecretId
);
uuid_id!(
    /// A tenant.
    AccountId
);
uuid_id!(
    /// A file system tree.
    VolumeId
);
uuid_id!(
    /// One live mount of one token.
    SessionId
);
uuid_id!(
    /// A metadata server, durable over restarts.
    ServerId
);
uuid_id!(
    /// One request that changes something: a repetition has the same.
    RequestId
);

/// An inode number: a keyed permutation of a counter, never reused. 0 and 1
/// are never given out (1 is what the kernel calls the root of a mount).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// An immutable object in the block store: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(pub [u8; 16]);

impl ObjectId {
    /// # Errors
    /// `PROTOCOL_INVALID` unless it is 16 bytes.
    pub fn from_slice(bytes: &[u8]) -> Result<ObjectId> {
        bytes
            .try_into()
            .map(ObjectId)
            .map_err(|_| Error::new(Code::ProtocolInvalid, "an object id is 16 bytes"))
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectId({self})")
    }
}
