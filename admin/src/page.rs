//! Pages of lists: keyset pagination over (created_at, id), so that a page
//! stays where it is while things are made and removed.

use flexfs_common::{Code, Error, Result, limits};

/// Where a page begins and how long it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Creation time of the last item before, in microseconds.
    pub after_at: i64,
    /// Its id; empty = from the start.
    pub after_id: String,
    /// Items, at most [`limits::LIST_MAX`].
    pub limit: u32,
}

impl Page {
    /// From a request: `limit` 0 is the default, `token` empty the start.
    ///
    /// # Errors
    /// `ARGUMENT_INVALID` for a token that no reply held.
    pub fn parse(limit: u32, token: &str) -> Result<Page> {
        let limit = if limit == 0 { limits::LIST_DEFAULT } else { limit.min(limits::LIST_MAX) };
        if token.is_empty() {
            return Ok(Page { after_at: i64::MIN, after_id: String::new(), limit });
        }
        let bad = || Error::new(Code::ArgumentInvalid, "the page is not one that a list gave");
        let (at, id) = token.split_once('-').ok_or_else(bad)?;
        if at.len() != 16 || id.is_empty() || id.len() > 64 {
            return Err(bad());
        }
        let at = u64::from_str_radix(at, 16).map_err(|_| bad())?;
        let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if !id.bytes().all(ok) {
            return Err(bad());
        }
        Ok(Page { after_at: at.cast_signed(), after_id: id.to_owned(), limit })
    }

    /// How many rows to ask for: one more tells whether there is a next page.
    #[must_use]
    pub fn fetch(&self) -> i64 {
        i64::from(self.limit) + 1
    }

    /// Cuts the extra row and gives the next page's token (empty = no more).
    pub fn finish<T>(&self, items: &mut Vec<T>, key: impl Fn(&T) -> (i64, String)) -> String {
        let limit = self.limit as usize;
        if items.len() <= limit {
            return String::new();
        }
        items.truncate(limit);
        items.last().map_or_else(String::new, |last| {
            let (at, id) = key(last);
            format!("{:016x}-{id}", at.cast_unsigned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_on_where_they_ended() {
        let page = Page::parse(2, "").unwrap();
        let mut items = vec![(1, "a"), (2, "b"), (3, "c")];
        let next = page.finish(&mut items, |(at, id)| (*at, (*id).to_owned()));
        assert_eq!(items.len(), 2);
        let page = Page::parse(0, &next).unwrap();
        assert_eq!((page.after_at, page.after_id.as_str()), (2, "b"));
        assert_eq!(page.limit, limits::LIST_DEFAULT);
        assert_eq!(Page::parse(u32::MAX, "").unwrap().limit, limits::LIST_MAX);
        assert_eq!(page.finish(&mut items, |(at, id)| (*at, (*id).to_owned())), "");
        for bad in ["x", "-", "00000000000000zz-a", "0000000000000001-", "0000000000000001-a'b"] {
            assert!(Page::parse(0, bad).is_err(), "{bad}");
        }
    }
}
