//! `Debug` for the two messages that hold secrets: prost derives it on every
//! message unless told not to (prost#861), and one `?request` in a log line
//! would then be a leak.

use std::fmt;

use crate::v1::{SecretBytes, SecretText};

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(…)")
    }
}
