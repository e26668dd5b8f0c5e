//! Looking for secrets where none may be.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The tokens that a test handed out.
#[derive(Default)]
pub struct Secrets(Mutex<BTreeSet<String>>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

/// A form in which a secret could be found, with what to call it.
#[derive(Debug)]
pub struct Needle {
    name: String,
    bytes: Vec<u8>,
}

impl Secrets {
    /// One more.
    ///
    /// # Panics
    /// After a panic elsewhere.
    pub fn add(&self, token: &str) {
        self.0.lock().expect("no panic").insert(token.to_owned());
    }

    /// Every secret in every form worth looking for: the digits of the
    /// secret, its bytes raw, in hex, in base64 and as in a URL, and the whole
    /// text so.
    ///
    /// # Panics
    /// When there are none: a scan for nothing proves nothing.
    #[must_use]
    pub fn needles(&self) -> Needles {
        let tokens = self.0.lock().expect("no panic");
        assert!(tokens.len() > 3, "the test made only {} tokens", tokens.len());
        Needles::new(tokens.iter().flat_map(|token| forms(token)).collect())
    }
}

/// All that is looked for, by its first two bytes: one pass over a text looks
/// for hundreds of needles.
#[derive(Debug)]
pub struct Needles {
    list: Vec<Needle>,
    by_start: Vec<Vec<usize>>,
}

impl Needles {
    fn new(list: Vec<Needle>) -> Needles {
        let mut by_start = vec![Vec::new(); 1 << 16];
        for (index, needle) in list.iter().enumerate() {
            by_start[start(&needle.bytes)].push(index);
        }
        Needles { list, by_start }
    }
}

fn start(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

fn forms(token: &str) -> Vec<Needle> {
    let id = token.get(..27).expect("a token").to_owned();
    // After prefix (5), id (22) and underscore: 43 digits of secret.
    let digits = token.get(28..71).expect("a token");
    let raw = decode_base62(digits);
    let mut forms = vec![("digits", digits.as_bytes().to_vec()), ("raw bytes", raw.clone())];
    for bytes in [&raw[..], token.as_bytes()] {
        forms.push(("hex", hex(bytes).into_bytes()));
        forms.push(("upper hex", hex(bytes).to_uppercase().into_bytes()));
        forms.push(("url", url(bytes)));
        // The bytes may stand anywhere in a longer base64 text: three phases.
        for skip in 0..3 {
            forms.push(("base64", base64(&bytes[skip..], b"+/")));
            forms.push(("base64url", base64(&bytes[skip..], b"-_")));
        }
    }
    let name = |form: &str| format!("{id}: {form}");
    forms.into_iter().map(|(form, bytes)| Needle { name: name(form), bytes }).collect()
}

fn decode_base62(digits: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut bytes = [0_u8; 32];
    for digit in digits.bytes() {
        let value = ALPHABET.iter().position(|c| *c == digit).expect("a base62 digit");
        let mut carry = u32::try_from(value).expect("below 62");
        for byte in bytes.iter_mut().rev() {
            let sum = u32::from(*byte) * 62 + carry;
            *byte = (sum & 0xff) as u8;
            carry = sum >> 8;
        }
        assert_eq!(carry, 0, "more than 32 bytes");
    }
    bytes.to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every byte escaped (RFC 3986 section 2.1); a token has no byte that must be.
fn url(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| format!("%{byte:02X}").into_bytes()).collect()
}

/// Whole groups of three bytes only: what is certain in any surroundings.
fn base64(bytes: &[u8], last_two: &[u8; 2]) -> Vec<u8> {
    let mut alphabet = Vec::new();
    alphabet.extend((b'A'..=b'Z').chain(b'a'..=b'z').chain(b'0'..=b'9'));
    alphabet.extend(last_two);
    let mut out = Vec::new();
    for group in bytes.chunks_exact(3) {
        let bits = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
        out.extend([18, 12, 6, 0].map(|shift| alphabet[(bits >> shift & 63) as usize]));
    }
    out
}

/// What was found in some bytes.
#[must_use]
pub fn find(needles: &Needles, place: &str, haystack: &[u8]) -> Vec<String> {
    let mut found = BTreeSet::new();
    for at in 0..haystack.len().saturating_sub(1) {
        for index in &needles.by_start[start(&haystack[at..])] {
            let needle = &needles.list[*index];
            if haystack[at..].starts_with(&needle.bytes) {
                found.insert(format!("{place}: {}", needle.name));
            }
        }
    }
    found.into_iter().collect()
}

/// Every file below a directory, except those `allowed`.
///
/// # Panics
/// When a directory cannot be read.
#[must_use]
pub fn scan_files(
    needles: &Needles,
    directory: &Path,
    allowed: &dyn Fn(&Path) -> bool,
) -> (usize, Vec<String>) {
    let (mut count, mut found) = (0, Vec::new());
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory").flatten() {
            let (path, kind) = (entry.path(), entry.file_type().expect("a type"));
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_file() && !allowed(&path) {
                // A file may vanish while we look (a database's journal).
                let Ok(bytes) = fs::read(&path) else { continue };
                count += 1;
                found.extend(find(needles, &path.display().to_string(), &bytes));
            }
        }
    }
    (count, found)
}

/// What every process of the machine shows of itself to `ps`: the ids of those
/// whose arguments and environment could be read, and what was found.
///
/// # Panics
/// When /proc cannot be read.
#[must_use]
pub fn scan_processes(needles: &Needles) -> (Vec<i32>, Vec<String>) {
    let (mut read, mut found) = (Vec::new(), Vec::new());
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let mut both = true;
        for name in ["cmdline", "environ"] {
            let path: PathBuf = entry.path().join(name);
            match fs::read(&path) {
                Ok(bytes) => found.extend(find(needles, &path.display().to_string(), &bytes)),
                // It has ended, or is somebody else's.
                Err(_) => both = false,
            }
        }
        if both {
            read.push(pid);
        }
    }
    (read, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_secret_is_found() {
        let token = flexfs_auth::token::Token::generate(flexfs_auth::token::TokenKind::Volume);
        let text = token.unwrap().reveal().to_owned();
        let needles = Needles::new(forms(&text));
        let raw = decode_base62(&text[28..71]);
        let mut padded = b"xy".to_vec();
        padded.extend(&raw);
        for hidden in [
            text.clone().into_bytes(),
            [b"\0\xff", &raw[..], b"tail"].concat(),
            hex(&raw).into_bytes(),
            hex(text.as_bytes()).into_bytes(),
            url(text.as_bytes()),
            base64(text.as_bytes(), b"+/"),
            base64(&padded, b"-_"),
        ] {
            assert!(!find(&needles, "here", &hidden).is_empty(), "{hidden:?}");
        }
        assert!(find(&needles, "here", &text.as_bytes()[..27]).is_empty(), "the id is public");
    }
}
