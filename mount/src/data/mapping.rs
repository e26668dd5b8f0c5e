//! Asking meta where a file's bytes lie.

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flexfs_common::clock::BootTime;
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;

use super::FileData;
use super::extents::{self, Piece, Told};
use super::file::Form;

/// Blocks asked about at once: a minute of reading, and few URLs unused.
const WINDOW_BLOCKS: u64 = 64;
/// Answers overtaken by changes before the operation gives up.
const OVERTAKEN_MAX: u32 = 16;
/// Questions for one range: as many windows as are kept.
const QUESTIONS_MAX: usize = extents::WINDOWS_MAX;

/// Where bytes of a file come from.
#[derive(Debug)]
pub(super) enum Source {
    /// The whole contents.
    Inline(Bytes),
    /// Spans in objects; what they leave open are holes.
    Pieces(Vec<Piece>),
}

impl FileData {
    /// Where `range` lies at meta, from memory or by asking.
    ///
    /// # Errors
    /// Meta's; `FS_IO` when the file changes faster than it can be asked for.
    pub(super) async fn source(&self, range: &Range<u64>) -> Result<Source> {
        if let Ok(source) = self.known_source(range) {
            return Ok(source);
        }
        // One question at a time: the others find its answer.
        let _asking = self.asking.lock().await;
        let mut overtaken = 0;
        for _ in 0..QUESTIONS_MAX {
            let at = match self.known_source(range) {
                Ok(source) => return Ok(source),
                Err(at) => at,
            };
            let era = self.state.lock().era;
            let told = self.ask(at, range.end).await?;
            let kept = self.state.lock().take_told(&told, era);
            // An answer that may not be kept is still right for a read that
            // began before it was asked for.
            if let Some(inline) = told.inline {
                return Ok(Source::Inline(inline));
            }
            if let Some(pieces) = told.covering(range) {
                return Ok(Source::Pieces(pieces));
            }
            overtaken += u32::from(!kept);
            if overtaken == OVERTAKEN_MAX {
                break;
            }
        }
        Err(Error::new(Code::FsIo, "the file changes faster than it can be read"))
    }

    /// Where the beginning of `range` lies, as far as one answer tells, and
    /// where that ends: for those who do not read all of it.
    ///
    /// # Errors
    /// Meta's.
    pub(super) async fn source_of_beginning(&self, range: &Range<u64>) -> Result<(Source, u64)> {
        match self.known_source(range) {
            Ok(source) => return Ok((source, range.end)),
            Err(known_to) => {
                let known = range.start..known_to;
                if !known.is_empty()
                    && let Ok(source) = self.known_source(&known)
                {
                    return Ok((source, known.end));
                }
            }
        }
        let _asking = self.asking.lock().await;
        let era = self.state.lock().era;
        let told = self.ask(range.start, range.end).await?;
        self.state.lock().take_told(&told, era);
        let end = told.window.end.min(range.end);
        let pieces = told.covering(&(range.start..end)).unwrap_or_default();
        Ok(match told.inline {
            Some(inline) => (Source::Inline(inline), range.end),
            None => (Source::Pieces(pieces), end),
        })
    }

    /// From memory; else the first offset that is not known.
    fn known_source(&self, range: &Range<u64>) -> Result<Source, u64> {
        let state = self.state.lock();
        match &state.form {
            Form::Inline(inline) => Ok(Source::Inline(inline.clone())),
            Form::Extents => state.windows.find(range, Instant::now()).map(Source::Pieces),
            Form::Unknown => Err(range.start),
        }
    }

    async fn ask(&self, at: u64, end: u64) -> Result<Told> {
        let asked = at..at.saturating_add(WINDOW_BLOCKS * self.core.block_size).max(end);
        let sent = Instant::now();
        let body = v1::op::Body::ReadExtents(v1::ReadExtents {
            handle: self.handle.to_vec(),
            offset: asked.start,
            length: asked.end - asked.start,
            write_right: self.state.lock().right.under(),
        });
        match self.core.session.call(v1::Caller::default(), body).await? {
            v1::reply::Result::Extents(map) => extents::parse(map, asked, sent),
            _ => Err(Error::new(Code::ProtocolInvalid, "not the answer to ReadExtents")),
        }
    }

    /// Makes sure that size and form are those of meta.
    pub(super) async fn know_form(&self) -> Result<()> {
        let known = {
            let state = self.state.lock();
            state.size_known && state.form != Form::Unknown
        };
        if !known {
            self.source(&(0..1)).await?;
        }
        Ok(())
    }

    /// Makes sure that what is cached is what meta has, at a moment after
    /// this call: an operation begun after a change returned elsewhere must
    /// see it. Free while meta lets us keep the attributes. `range` is what is
    /// going to be read.
    ///
    /// # Errors
    /// Meta's.
    pub(super) async fn revalidate(&self, range: &Range<u64>) -> Result<()> {
        let era = {
            let state = self.state.lock();
            if state.held.is_some() {
                return Ok(());
            }
            if state.size_known && state.valid_until.is_some_and(|until| !until.passed()) {
                return Ok(());
            }
            state.era
        };
        // What has to be asked for anyway comes with size and counter.
        if self.known_source(range).is_err() {
            let _asking = self.asking.lock().await;
            if let Err(at) = self.known_source(range) {
                let era = self.state.lock().era;
                let told = self.ask(at, range.end).await?;
                if self.state.lock().take_told(&told, era) {
                    return Ok(());
                }
            }
        }
        self.ask_validity(era).await
    }

    /// As `revalidate`, for what the kernel has: at meta, unless
    /// it tells before anybody else changes the file, and will for longer than
    /// `ahead`.
    ///
    /// # Errors
    /// Meta's.
    pub async fn look_again(&self, ahead: Duration) -> Result<()> {
        let era = {
            let state = self.state.lock();
            let valid_until = state.valid_until.filter(|_| state.size_known);
            if state.held.is_some() || valid_until.is_some_and(|until| until.left() > ahead) {
                return Ok(());
            }
            state.era
        };
        self.ask_validity(era).await
    }

    /// Asks meta for size and change counter, and for the right to keep them.
    async fn ask_validity(&self, era: u64) -> Result<()> {
        let sent = BootTime::now();
        let body = v1::op::Body::GetAttr(v1::GetAttr { handle: self.handle.to_vec() });
        let v1::reply::Result::Attr(attr) =
            self.core.session.call(v1::Caller::default(), body).await?
        else {
            return Err(Error::new(Code::ProtocolInvalid, "not the answer to GetAttr"));
        };
        let mut state = self.state.lock();
        let recalled = state.era != era;
        state.learn(&attr);
        if !recalled && attr.cache_millis > 0 && state.change == attr.change {
            let until = sent.after(Duration::from_millis(attr.cache_millis.into()));
            state.valid_until = Some(until);
        }
        Ok(())
    }
}
