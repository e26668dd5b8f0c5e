//! An answer on its way to the kernel: exactly one per request, and what must
//! be undone when it does not arrive.

use std::sync::Arc;

use bytes::Bytes;
use flexfs_common::{Code, Result};

use super::device::{Delivery, Device};
use super::encode::{Body, Promise, withdraw};
use crate::errno::errno;
use crate::freshness::Freshness;

/// A successful answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// What follows the header.
    pub(super) body: Bytes,
    /// What it lets the kernel keep.
    pub(super) promises: Vec<Promise>,
    /// Inodes counted as told to the kernel by this answer.
    pub(super) told: Vec<u64>,
    /// The file handle that this answer hands out.
    pub(super) opened: Option<u64>,
    /// The directory handle that this answer hands out.
    pub(super) opened_dir: Option<u64>,
}

impl Answer {
    /// Done, nothing to say.
    pub(super) fn empty() -> Answer {
        Answer::default()
    }

    /// Done, with this result, which lets the kernel keep something.
    pub(super) fn promising(body: Body) -> Answer {
        let (bytes, promises) = body.finish_promising();
        Answer { body: bytes.into(), promises, ..Answer::default() }
    }

    /// Done, with this result.
    pub(super) fn body(body: impl Into<Bytes>) -> Answer {
        Answer { body: body.into(), ..Answer::default() }
    }
}

/// Owes the kernel one reply; sends EIO when dropped without (a panic).
#[derive(Debug)]
pub(super) struct Debt {
    device: Arc<Device>,
    unique: u64,
    paid: bool,
}

impl Debt {
    pub(super) fn new(device: Arc<Device>, unique: u64) -> Debt {
        Debt { device, unique, paid: false }
    }

    /// Sends the answer. On `Gone` the caller undoes what it handed out.
    pub(super) fn pay(mut self, answer: &mut Result<Answer>, fresh: &Freshness) -> Delivery {
        self.paid = true;
        match answer {
            Ok(answer) if answer.promises.is_empty() => {
                self.device.reply(self.unique, 0, &answer.body)
            }
            Ok(answer) => {
                // Held until the kernel has it: see `freshness`.
                let reading = fresh.reading();
                let body = std::mem::take(&mut answer.body);
                let body = withdraw(body, &answer.promises, &reading);
                self.device.reply(self.unique, 0, &body)
            }
            Err(error) => self.device.reply(self.unique, errno(error.code()), &[]),
        }
    }

    /// Sends a bare errno.
    pub(super) fn refuse(mut self, number: i32) {
        self.paid = true;
        self.device.reply(self.unique, number, &[]);
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        if !self.paid {
            self.device.reply(self.unique, errno(Code::Internal), &[]);
        }
    }
}
