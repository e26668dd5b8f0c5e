//! The one file that prints. Results go to stdout, everything else to stderr;
//! a token goes to stdout alone, on one line.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::{Code, Error, Result};
use serde::Serialize;

/// `-o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns (the default)
    Table,
    /// More columns
    Wide,
    /// One JSON document
    Json,
    /// One YAML document
    Yaml,
    /// Ids only, one per line
    Id,
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    /// Its heading.
    pub(crate) heading: &'static str,
    /// Shown with `-o wide` only (and by `show`).
    pub(crate) wide: bool,
}

/// A column of every table.
pub(crate) const fn column(heading: &'static str) -> Column {
    Column { heading, wide: false }
}

/// A column of wide tables.
pub(crate) const fn wide(heading: &'static str) -> Column {
    Column { heading, wide: true }
}

/// Something that can be shown and listed. Its serialisation is the JSON
/// contract of docs/cli.md.
pub(crate) trait View: Serialize {
    /// The columns, in order.
    const COLUMNS: &'static [Column];
    /// A text per column.
    fn cells(&self) -> Vec<String>;
    /// What `-o id` prints.
    fn id(&self) -> &str;
}

/// A page of a listing.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct ListForm<'a, V> {
    items: &'a [V],
    next_page: Option<&'a str>,
}

/// What happened to one thing.
#[derive(Serialize, Debug)]
pub(crate) struct Changed {
    /// Its id.
    pub(crate) id: String,
    /// The revision of the change.
    pub(crate) revision: u64,
}

/// Prints in one format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Option<Format>,
}

impl Output {
    /// For this `-o`.
    pub(crate) fn new(format: Option<Format>) -> Output {
        Output { format }
    }

    /// One thing.
    pub(crate) fn one<V: View>(&self, view: &V) -> Result<()> {
        match self.format {
            None | Some(Format::Table | Format::Wide) => write_out(&vertical(view)),
            Some(Format::Json) => write_json(view),
            Some(Format::Yaml) => write_yaml(view),
            Some(Format::Id) => write_out(&line(view.id())),
        }
    }

    /// A page of things.
    pub(crate) fn list<V: View>(&self, items: &[V], next_page: &str) -> Result<()> {
        let next = (!next_page.is_empty()).then_some(next_page);
        let form = ListForm { items, next_page: next };
        match self.format {
            None | Some(Format::Table) => write_out(&table(items, false))?,
            Some(Format::Wide) => write_out(&table(items, true))?,
            Some(Format::Json) => return write_json(&form),
            Some(Format::Yaml) => return write_yaml(&form),
            Some(Format::Id) => {
                write_out(&items.iter().map(|view| line(view.id())).collect::<String>())?;
            }
        }
        if let Some(next) = next {
            note(&format!("more: --page {}", clean(next)));
        }
        Ok(())
    }

    /// Something new whose token is handed out now and never again. `json`
    /// is the form with the token in it.
    pub(crate) fn handed_out<V: View>(
        &self,
        view: &V,
        token: &Token,
        json: &impl Serialize,
    ) -> Result<()> {
        match self.format {
            None | Some(Format::Table | Format::Wide) => {
                write_err(&vertical(view));
                if io::stdout().is_terminal() {
                    let what = if token.kind() == TokenKind::Claim { "code" } else { "token" };
                    note(&format!("The {what} is shown this once:"));
                }
                write_out(&line(token.reveal()))
            }
            Some(Format::Json) => write_json(json),
            Some(Format::Yaml) => write_yaml(json),
            Some(Format::Id) => write_out(&line(view.id())),
        }
    }

    /// What a command did: a sentence for people, or the object.
    pub(crate) fn done(&self, sentence: &str, id: &str, json: &impl Serialize) -> Result<()> {
        match self.format {
            None | Some(Format::Table | Format::Wide) => write_out(&line(&clean(sentence))),
            Some(Format::Json) => write_json(json),
            Some(Format::Yaml) => write_yaml(json),
            Some(Format::Id) => write_out(&line(&clean(id))),
        }
    }

    /// What people want to know besides, on stderr; programs read the object.
    pub(crate) fn remark(&self, text: &str) {
        match self.format {
            None | Some(Format::Table | Format::Wide | Format::Id) => note(&clean(text)),
            Some(Format::Json | Format::Yaml) => {}
        }
    }

    /// Things that belong together: a table of them, or the object.
    pub(crate) fn all<V: View>(&self, items: &[V], json: &impl Serialize) -> Result<()> {
        match self.format {
            None | Some(Format::Table | Format::Wide | Format::Id) => self.list(items, ""),
            Some(Format::Json) => write_json(json),
            Some(Format::Yaml) => write_yaml(json),
        }
    }

    /// A text for people, or the object.
    pub(crate) fn text(&self, text: &str, json: &impl Serialize) -> Result<()> {
        match self.format {
            None | Some(Format::Table | Format::Wide | Format::Id) => write_out(&line(text)),
            Some(Format::Json) => write_json(json),
            Some(Format::Yaml) => write_yaml(json),
        }
    }

    /// Two parts for people (a thing and a table below it), or the object.
    pub(crate) fn with_table<V: View, W: View>(
        &self,
        view: &V,
        title: &str,
        rows: &[W],
    ) -> Result<()> {
        let is_wide = self.format == Some(Format::Wide);
        match self.format {
            None | Some(Format::Table | Format::Wide) => {
                let below = match rows {
                    [] => format!("no {title}\n"),
                    _ => table(rows, is_wide),
                };
                write_out(&format!("{}\n{below}", vertical(view)))
            }
            Some(Format::Json | Format::Yaml | Format::Id) => self.one(view),
        }
    }

    /// Bytes as they are (completions, CSV).
    pub(crate) fn raw(bytes: &[u8]) -> Result<()> {
        write_bytes(bytes)
    }
}

/// A line on stderr.
pub(crate) fn note(text: &str) {
    write_err(&line(text));
}

fn line(text: &str) -> String {
    format!("{text}\n")
}

/// What a server sends is not trusted with the terminal: control characters
/// (escape sequences among them) are spelled out.
pub(crate) fn clean(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    let spell = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    text.chars().map(spell).collect()
}

fn table<V: View>(items: &[V], is_wide: bool) -> String {
    let shown: Vec<bool> = V::COLUMNS.iter().map(|column| is_wide || !column.wide).collect();
    let keep = |texts: Vec<String>| -> Vec<String> {
        texts.into_iter().zip(&shown).filter_map(|(text, keep)| keep.then_some(text)).collect()
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(keep(V::COLUMNS.iter().map(|column| column.heading.to_owned()).collect()));
    for item in items {
        let cells = item.cells().iter().map(|cell| filled(cell)).collect();
        table.add_row(keep(cells));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for row in table.lines() {
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// An empty cell would move the next one under its heading for awk(1).
fn filled(cell: &str) -> String {
    if cell.is_empty() { "-".to_owned() } else { clean(cell) }
}

fn vertical<V: View>(view: &V) -> String {
    let width = V::COLUMNS.iter().map(|column| column.heading.len()).max().unwrap_or(0);
    V::COLUMNS
        .iter()
        .zip(view.cells())
        .filter(|(_, cell)| !cell.is_empty())
        .map(|(column, cell)| format!("{:width$}  {}\n", column.heading, clean(&cell)))
        .collect()
}

fn write_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map(zeroize::Zeroizing::new);
    let text = text.map_err(|e| Error::bare(Code::Internal).caused_by(e))?;
    write_out(&zeroize::Zeroizing::new(line(&text)))
}

fn write_yaml(value: &impl Serialize) -> Result<()> {
    let text = serde_yaml_ng::to_string(value).map(zeroize::Zeroizing::new);
    write_out(&text.map_err(|e| Error::bare(Code::Internal).caused_by(e))?)
}

fn write_out(text: &str) -> Result<()> {
    write_bytes(text.as_bytes())
}

fn write_bytes(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        // The reader has seen enough (`… | head`).
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(Error::new(Code::Internal, "cannot write to standard output").caused_by(e)),
        Ok(()) => Ok(()),
    }
}

fn write_err(text: &str) {
    // Without stderr there is nobody to tell.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Thing {
        id: String,
        notes: String,
    }

    impl View for Thing {
        const COLUMNS: &'static [Column] = &[column("ID"), wide("NOTES")];
        fn cells(&self) -> Vec<String> {
            vec![self.id.clone(), self.notes.clone()]
        }
        fn id(&self) -> &str {
            &self.id
        }
    }

    fn thing(notes: &str) -> Thing {
        Thing { id: "one".into(), notes: notes.into() }
    }

    #[test]
    fn tables_are_plain_columns() {
        let items = [thing("first"), thing("")];
        assert_eq!(table(&items, false), "ID\none\none\n");
        assert_eq!(table(&items, true), "ID   NOTES\none  first\none  -\n");
        assert_eq!(table::<Thing>(&[], false), "ID\n");
    }

    #[test]
    fn one_thing_is_shown_line_by_line_without_what_is_empty() {
        assert_eq!(vertical(&thing("first")), "ID     one\nNOTES  first\n");
        assert_eq!(vertical(&thing("")), "ID     one\n");
    }

    #[test]
    fn escape_sequences_of_a_server_do_not_reach_the_terminal() {
        let text = vertical(&thing("\x1b[2J\nNOTES  forged"));
        assert!(!text.contains('\x1b') && text.lines().count() == 2, "{text:?}");
        assert_eq!(clean("ünïcode"), "ünïcode");
    }

    #[test]
    fn a_listing_always_has_both_keys() {
        let items = [thing("")];
        let form = |next_page| ListForm { items: &items, next_page };
        assert_eq!(
            serde_json::to_string(&form(None)).unwrap(),
            r#"{"items":[{"id":"one","notes":""}],"nextPage":null}"#
        );
        let text = serde_json::to_string(&form(Some("p2"))).unwrap();
        assert!(text.ends_with(r#""nextPage":"p2"}"#));
    }
}
