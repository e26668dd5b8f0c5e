//! Values of both databases: text, 64-bit integers and bytes are all we use.

use flexfs_common::{Code, Error, Result};
use jiff::Timestamp;

/// An argument or a cell. Nulls keep their type, because Postgres asks for it.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(Option<String>),
    /// A 64-bit integer.
    Int(Option<i64>),
    /// Bytes.
    Bytes(Option<Vec<u8>>),
}

impl std::fmt::Debug for Value {
    // Arguments hold verifiers.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Value(…)")
    }
}

impl Value {
    /// Anything with a text form: ids, names, words.
    pub fn text(value: impl ToString) -> Value {
        Value::Text(Some(value.to_string()))
    }
    /// Text or NULL.
    pub fn opt_text(value: Option<impl ToString>) -> Value {
        Value::Text(value.map(|value| value.to_string()))
    }
    /// An instant, in microseconds.
    #[must_use]
    pub fn time(at: Timestamp) -> Value {
        Value::Int(Some(at.as_microsecond()))
    }
    /// An instant or NULL.
    #[must_use]
    pub fn opt_time(at: Option<Timestamp>) -> Value {
        Value::Int(at.map(Timestamp::as_microsecond))
    }
    /// A number that was checked to fit.
    #[must_use]
    pub fn unsigned(value: u64) -> Value {
        Value::Int(Some(i64::try_from(value).unwrap_or(i64::MAX)))
    }
    /// Bytes.
    #[must_use]
    pub fn bytes(value: &[u8]) -> Value {
        Value::Bytes(Some(value.to_vec()))
    }

    /// Refuses text that one of the databases cannot keep (PostgreSQL takes no
    /// NUL), on both alike: the caller's fault, not the database's.
    ///
    /// # Errors
    /// `ARGUMENT_INVALID`.
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Value::Text(Some(text)) if text.contains('\0') => {
                Err(Error::new(Code::ArgumentInvalid, "a text holds the character NUL"))
            }
            Value::Text(_) | Value::Int(_) | Value::Bytes(_) => Ok(()),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::text(text)
    }
}
impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Int(Some(number))
    }
}

/// One row: its cells in the order of the query's columns.
#[derive(Clone, Debug)]
pub struct Row(pub(super) Vec<Value>);

impl Row {
    /// Reads the cells from left to right.
    #[must_use]
    pub fn cells(self) -> Cells {
        Cells(self.0.into_iter())
    }
}

/// The cells that are not yet read.
#[derive(Debug)]
pub struct Cells(std::vec::IntoIter<Value>);

fn unexpected() -> Error {
    Error::new(Code::DatabaseFailed, "the database holds a value of another type than expected")
}

impl Cells {
    /// Text that may be NULL.
    ///
    /// # Errors
    /// `DATABASE_FAILED` when the next cell is something else.
    pub fn opt_text(&mut self) -> Result<Option<String>> {
        match self.0.next() {
            Some(Value::Text(text)) => Ok(text),
            // A NULL of SQLite has no type.
            Some(Value::Int(None) | Value::Bytes(None)) => Ok(None),
            Some(Value::Int(Some(_)) | Value::Bytes(Some(_))) | None => Err(unexpected()),
        }
    }
    /// Text.
    ///
    /// # Errors
    /// As [`Cells::opt_text`], and for NULL.
    pub fn text(&mut self) -> Result<String> {
        self.opt_text()?.ok_or_else(unexpected)
    }
    /// A parsed text.
    ///
    /// # Errors
    /// As [`Cells::text`], and when it does not parse.
    pub fn parse<T: std::str::FromStr<Err = Error>>(&mut self) -> Result<T> {
        self.text()?.parse().map_err(|e: Error| unexpected().caused_by(e))
    }
    /// A parsed text; NULL and the empty text are `None`.
    ///
    /// # Errors
    /// As [`Cells::opt_text`], and when it does not parse.
    pub fn opt_parse<T: std::str::FromStr<Err = Error>>(&mut self) -> Result<Option<T>> {
        match self.opt_text()?.filter(|text| !text.is_empty()) {
            Some(text) => text.parse().map(Some).map_err(|e: Error| unexpected().caused_by(e)),
            None => Ok(None),
        }
    }
    /// Texts joined by commas.
    ///
    /// # Errors
    /// As [`Cells::text`], and when one does not parse.
    pub fn list<T: std::str::FromStr<Err = Error>>(&mut self) -> Result<Vec<T>> {
        let text = self.text()?;
        text.split(',')
            .filter(|part| !part.is_empty())
            .map(|part| part.parse().map_err(|e: Error| unexpected().caused_by(e)))
            .collect()
    }
    /// An integer that may be NULL.
    ///
    /// # Errors
    /// `DATABASE_FAILED` when the next cell is something else.
    pub fn opt_int(&mut self) -> Result<Option<i64>> {
        match self.0.next() {
            Some(Value::Int(number)) => Ok(number),
            Some(Value::Text(None) | Value::Bytes(None)) => Ok(None),
            Some(Value::Text(Some(_)) | Value::Bytes(Some(_))) | None => Err(unexpected()),
        }
    }
    /// An integer.
    ///
    /// # Errors
    /// As [`Cells::opt_int`], and for NULL.
    pub fn int(&mut self) -> Result<i64> {
        self.opt_int()?.ok_or_else(unexpected)
    }
    /// An integer that fits an unsigned type.
    ///
    /// # Errors
    /// As [`Cells::int`], and when it does not fit.
    pub fn number<T: TryFrom<i64>>(&mut self) -> Result<T> {
        T::try_from(self.int()?).map_err(|_| unexpected())
    }
    /// As [`Cells::number`], or NULL.
    ///
    /// # Errors
    /// As [`Cells::opt_int`], and when it does not fit.
    pub fn opt_number<T: TryFrom<i64>>(&mut self) -> Result<Option<T>> {
        self.opt_int()?.map(|n| T::try_from(n).map_err(|_| unexpected())).transpose()
    }
    /// An instant that may be NULL.
    ///
    /// # Errors
    /// As [`Cells::opt_int`], and when it is out of range.
    pub fn opt_time(&mut self) -> Result<Option<Timestamp>> {
        self.opt_int()?
            .map(|at| Timestamp::from_microsecond(at).map_err(|e| unexpected().caused_by(e)))
            .transpose()
    }
    /// An instant.
    ///
    /// # Errors
    /// As [`Cells::opt_time`], and for NULL.
    pub fn time(&mut self) -> Result<Timestamp> {
        self.opt_time()?.ok_or_else(unexpected)
    }
    /// Bytes of a fixed length.
    ///
    /// # Errors
    /// `DATABASE_FAILED` when the next cell is something else.
    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.0.next() {
            Some(Value::Bytes(Some(bytes))) => bytes.try_into().map_err(|_| unexpected()),
            _ => Err(unexpected()),
        }
    }
}
