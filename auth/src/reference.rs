//! References to secrets: `env:VAR`, `file:/abs/path`, `exec:command args`.
//! All of these block: they are resolved at start, before any async work.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use flexfs_common::{Code, Error, Result};
use zeroize::Zeroizing;

/// Bytes of a `--tokenFile`: a token is 77.
const ARGUMENT_MAX_LEN: u64 = 4 * 1024;
/// Bytes of what a reference points to: a URL or a volume's secret, with room.
const REFERENCE_MAX_LEN: u64 = 64 * 1024;
/// How long a secrets manager's command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// Does the text point to a secret instead of being one?
#[must_use]
pub fn is_reference(text: &str) -> bool {
    ["env:", "file:", "exec:"].iter().any(|prefix| text.starts_with(prefix))
}

/// A literal, or what the reference points to, trailing white space stripped.
///
/// # Errors
/// `REFERENCE_INVALID` naming the reference (never its value): unset or
/// empty variable, unreadable, relative or empty file, failing command; also
/// for an empty literal.
pub fn resolve(text: &str) -> Result<Zeroizing<String>> {
    if let Some(variable) = text.strip_prefix("env:") {
        return from_environment(variable);
    }
    if let Some(path) = text.strip_prefix("file:") {
        let name = format!("`file:{path}`");
        if Path::new(path).is_relative() {
            return Err(invalid(&name, "the path must be absolute"));
        }
        return from_file(&name, Path::new(path), REFERENCE_MAX_LEN);
    }
    if let Some(command) = text.strip_prefix("exec:") {
        return from_command(command);
    }
    checked("the value", Zeroizing::new(text.to_owned()))
}

/// Replaces `${VAR}` in a value of a configuration file. Any other `$` stays.
///
/// # Errors
/// `REFERENCE_INVALID` naming the variable that is unset or empty, or an
/// unclosed `${`.
pub fn interpolate(text: &str) -> Result<Zeroizing<String>> {
    let mut out = Zeroizing::new(String::with_capacity(text.len()));
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (variable, after) =
            after.split_once('}').ok_or_else(|| invalid("`${`", "it is not closed"))?;
        out.push_str(before);
        out.push_str(&from_environment(variable)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// Reads a `--tokenFile F|-` argument: a file or standard input, at most
/// 4 KiB, trailing white space stripped; also the three references.
///
/// # Errors
/// `REFERENCE_INVALID`.
pub fn read_secret_argument(argument: &str) -> Result<Zeroizing<String>> {
    if argument == "-" {
        let name = "standard input";
        return checked(name, bounded(name, std::io::stdin().lock(), ARGUMENT_MAX_LEN)?);
    }
    if is_reference(argument) {
        return resolve(argument);
    }
    if argument.starts_with("flx") && !Path::new(argument).exists() {
        // What stands in argv can be seen by every user of the machine.
        return Err(Error::new(
            Code::ReferenceInvalid,
            "a token was given where a file name belongs; every user of this machine could see \
             it: give a file, `-` for standard input, or env:VAR, and revoke that token",
        ));
    }
    let name = format!("`{}`", argument.escape_debug());
    from_file(&name, Path::new(argument), ARGUMENT_MAX_LEN)
}

/// Asks for a secret: on a terminal without echo, else from standard input.
///
/// # Errors
/// `REFERENCE_INVALID` when nothing was given.
pub fn ask_for_secret(prompt: &str) -> Result<Zeroizing<String>> {
    if !std::io::stdin().is_terminal() {
        return read_secret_argument("-");
    }
    let name = "the terminal";
    let failed = |e: std::io::Error| invalid(name, "it cannot be read").caused_by(e);
    let mut tty =
        std::fs::OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(failed)?;
    std::io::Write::write_all(&mut tty, prompt.as_bytes()).map_err(failed)?;
    let line = without_echo(&tty).map_err(failed)?;
    std::io::Write::write_all(&mut tty, b"\n").map_err(failed)?;
    checked(name, line)
}

/// One line, typed unseen. The old settings come back on every path.
fn without_echo(tty: &File) -> std::io::Result<Zeroizing<String>> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let before = tcgetattr(tty)?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(tty, OptionalActions::Flush, &hidden)?;
    let mut line = Zeroizing::new(String::with_capacity(256));
    let read = std::io::BufRead::read_line(&mut std::io::BufReader::new(tty), &mut line);
    tcsetattr(tty, OptionalActions::Flush, &before)?;
    read.map(|_| line)
}

fn from_environment(variable: &str) -> Result<Zeroizing<String>> {
    let name = format!("`env:{variable}`");
    if variable.is_empty() || variable.contains(['=', '\0']) {
        return Err(invalid(&name, "this is no name of a variable"));
    }
    match std::env::var(variable) {
        Ok(value) => checked(&name, Zeroizing::new(value)),
        Err(std::env::VarError::NotPresent) => Err(invalid(&name, "the variable is not set")),
        Err(std::env::VarError::NotUnicode(_)) => Err(invalid(&name, "the variable is not text")),
    }
}

fn from_file(name: &str, path: &Path, limit: u64) -> Result<Zeroizing<String>> {
    let file = File::open(path).map_err(|e| invalid(name, "cannot open it").caused_by(e))?;
    checked(name, bounded(name, file, limit)?)
}

/// Runs the command, split at white space, without a shell; its standard
/// output is the secret, its standard error is the user's.
fn from_command(command: &str) -> Result<Zeroizing<String>> {
    let mut words = command.split_whitespace();
    let program = words.next().unwrap_or_default();
    // The arguments are not repeated: they may hold what opens the manager.
    let name = format!("`exec:{program} …`");
    if program.is_empty() {
        return Err(invalid("`exec:`", "there is no command"));
    }
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| invalid(&name, "it cannot be started").caused_by(e))?;
    let stdout = child.stdout.take();
    let (sender, receiver) = std::sync::mpsc::channel();
    let reader_name = name.clone();
    std::thread::spawn(move || {
        let outcome = stdout.map(|out| bounded(&reader_name, out, REFERENCE_MAX_LEN));
        // The receiver is gone after the limit.
        let _ = sender.send(outcome);
    });
    let output = receiver.recv_timeout(COMMAND_LIMIT);
    if !matches!(output, Ok(Some(Ok(_)))) {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|e| invalid(&name, "it was lost").caused_by(e))?;
    match output {
        Ok(Some(Ok(text))) if status.success() => checked(&name, text),
        Ok(Some(Ok(_))) => Err(invalid(&name, &format!("it failed ({status})"))),
        Ok(Some(Err(e))) => Err(e),
        Ok(None) => Err(invalid(&name, "it has no output")),
        Err(_) => Err(invalid(&name, "it took longer than 30 s")),
    }
}

fn bounded(name: &str, from: impl Read, limit: u64) -> Result<Zeroizing<String>> {
    // Room at once: a growing buffer would leave copies of the secret behind.
    let room = usize::try_from(limit).unwrap_or(0) + 1;
    let mut text = Zeroizing::new(String::with_capacity(room));
    from.take(limit + 1)
        .read_to_string(&mut text)
        .map_err(|e| invalid(name, "it cannot be read as text").caused_by(e))?;
    if text.len() >= room {
        return Err(invalid(name, &format!("it is longer than {limit} bytes")));
    }
    Ok(text)
}

/// Strips trailing white space and refuses emptiness.
fn checked(name: &str, mut text: Zeroizing<String>) -> Result<Zeroizing<String>> {
    let length = text.trim_end().len();
    text.truncate(length);
    if text.is_empty() {
        return Err(invalid(name, "it is empty"));
    }
    Ok(text)
}

fn invalid(name: &str, why: &str) -> Error {
    Error::new(Code::ReferenceInvalid, format!("{name}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let error = resolve(text).unwrap_err();
        assert_eq!(error.code(), Code::ReferenceInvalid);
        error.with_causes()
    }

    #[test]
    fn literals_are_themselves() {
        assert_eq!(resolve("secret \n").unwrap().as_str(), "secret");
        assert!(refused("").contains("empty"));
        assert!(refused(" \n").contains("empty"));
    }

    #[test]
    fn variables() {
        // Set by cargo for every test.
        assert_eq!(resolve("env:CARGO_PKG_NAME").unwrap().as_str(), "flexfs-auth");
        assert!(refused("env:FLEXFS_NOT_SET").contains("`env:FLEXFS_NOT_SET`"));
        assert!(refused("env:").contains("no name"));
        assert!(refused("env:A=B").contains("no name"));
    }

    #[test]
    fn variables_within_a_value() {
        let text = |text| interpolate(text).map(|t| t.to_string());
        assert_eq!(text("a ${CARGO_PKG_NAME}:$7 b").unwrap(), "a flexfs-auth:$7 b");
        assert_eq!(text("plain").unwrap(), "plain");
        for bad in ["${FLEXFS_NOT_SET}", "${}", "${X"] {
            assert_eq!(text(bad).unwrap_err().code(), Code::ReferenceInvalid, "{bad}");
        }
    }

    #[test]
    fn files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "value\n\n").unwrap();
        let reference = format!("file:{}", path.display());
        assert_eq!(resolve(&reference).unwrap().as_str(), "value");
        assert_eq!(read_secret_argument(path.to_str().unwrap()).unwrap().as_str(), "value");
        assert_eq!(read_secret_argument(&reference).unwrap().as_str(), "value");
        std::fs::write(&path, "x".repeat(5000)).unwrap();
        assert!(resolve(&reference).is_ok());
        assert!(read_secret_argument(path.to_str().unwrap()).is_err());
        std::fs::write(&path, "\n").unwrap();
        assert!(refused(&reference).contains("empty"));
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(refused(&reference).contains("text"));
        assert!(refused("file:relative").contains("absolute"));
        assert!(refused("file:/nowhere/x").contains("/nowhere/x"));
    }

    #[test]
    fn commands() {
        assert_eq!(resolve("exec:echo a b").unwrap().as_str(), "a b");
        assert!(refused("exec:false").contains("failed"));
        assert!(refused("exec:true").contains("empty"));
        assert!(refused("exec:").contains("no command"));
        assert!(refused("exec:/no/such/program --key k").contains("/no/such/program …"));
        assert!(!refused("exec:/no/such/program --key k").contains("--key"));
        // No shell: this is one argument to echo.
        assert_eq!(resolve("exec:echo $(id)").unwrap().as_str(), "$(id)");
        assert!(refused("exec:yes").contains("longer"));
    }

    #[test]
    fn a_token_in_argv_is_refused_and_not_repeated() {
        let token = crate::token::Token::generate(crate::token::TokenKind::Account).unwrap();
        let error = read_secret_argument(token.reveal()).unwrap_err();
        assert!(!error.with_causes().contains(token.reveal()));
        assert!(error.message().contains("revoke"));
    }
}
