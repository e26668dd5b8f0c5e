//! What the command lines of all programs share: both spellings of every
//! flag, usage errors in the house form, and the `version` line.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Arg, Command, CommandFactory, FromArgMatches};

use crate::exit::{self, ErrorFormat};
use crate::{Code, Error};

/// `configure.flexfs 0.1.0`: what `version` prints, without a newline.
#[must_use]
pub fn version_line(program: &str) -> String {
    format!("{program} {}", env!("CARGO_PKG_VERSION"))
}

/// Lets every long flag of the tree also answer to its kebab-case form
/// (docs/cli.md): `--credsFile` and `--creds-file`.
#[must_use]
pub fn with_kebab_aliases(cmd: Command) -> Command {
    cmd.mut_args(with_kebab_alias).mut_subcommands(with_kebab_aliases)
}

fn with_kebab_alias(arg: Arg) -> Arg {
    match arg.get_long().map(|long| (kebab(long), long.to_owned())) {
        Some((kebab, long)) if kebab != long => arg.alias(kebab),
        _ => arg,
    }
}

/// The kebab-case form of a camelCase flag. A run of capitals is one word
/// together with what follows it (`noATime`: `no-atime`), and one letter
/// alone is not a word (`xAttr`: `xattr`).
#[must_use]
pub fn kebab(camel: &str) -> String {
    let mut out = String::with_capacity(camel.len() + 4);
    let mut word_len = 0_usize;
    let mut after_capital = false;
    for c in camel.chars() {
        let capital = c.is_ascii_uppercase();
        if capital && !after_capital && word_len > 1 {
            out.push('-');
            word_len = 0;
        }
        out.push(c.to_ascii_lowercase());
        word_len = if c == '-' { 0 } else { word_len + 1 };
        after_capital = capital;
    }
    out
}

/// Parses the process's arguments (or others, in tests) into `C`, with
/// [`with_kebab_aliases`]. `--help` is printed and ends with 0; a usage error
/// is printed as `error[ARGUMENT_INVALID]` and ends with 2.
///
/// # Errors
/// The exit code with which the program ends now.
pub fn parse<C, I>(arguments: I) -> Result<C, ExitCode>
where
    C: CommandFactory + FromArgMatches,
    I: IntoIterator<Item: Into<OsString>>,
{
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let mut command = with_kebab_aliases(C::command());
    command
        .try_get_matches_from_mut(&arguments)
        .and_then(|matches| C::from_arg_matches(&matches))
        .map_err(|error| finish(&error.format(&mut command), wants_json(&arguments)))
}

/// Was `-o json` asked for? Looked up in the raw words, because it is needed
/// when they could not be parsed.
fn wants_json(arguments: &[OsString]) -> bool {
    let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    words.iter().any(|word| word == "-ojson" || word == "-o=json" || word == "--output=json")
        || words.windows(2).any(|pair| {
            matches!(pair, [flag, value] if (flag == "-o" || flag == "--output") && value == "json")
        })
}

fn finish(error: &clap::Error, json: bool) -> ExitCode {
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if asked_for {
        // A closed stdout is no reason to fail.
        let _ = error.print();
        return ExitCode::from(exit::OK);
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let missing = Error::new(Code::ArgumentInvalid, "the command is not complete");
        if json {
            return exit::report(&missing, ErrorFormat::Json);
        }
        // Its help is the best hint.
        let mut out = std::io::stderr().lock();
        let (code, hint) = (missing.code(), missing.code().hint());
        let _ = write!(out, "{}", error.render());
        let _ = writeln!(out, "error[{code}]: {}\nhint: {hint}", missing.message());
        return ExitCode::from(exit::USAGE);
    }
    let text = redact(&error.render().to_string());
    // Our hint says the same as clap's last line.
    let text = text.replace("\n\nFor more information, try '--help'.", "");
    let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
    if json {
        let first = text.split("\n\n").next().unwrap_or(text);
        return exit::report(&Error::new(Code::ArgumentInvalid, first), ErrorFormat::Json);
    }
    let code = Code::ArgumentInvalid;
    let _ = writeln!(std::io::stderr().lock(), "error[{code}]: {text}\nhint: {}", code.hint());
    ExitCode::from(exit::USAGE)
}

/// Takes tokens out of a text: somebody pasted one where it does not belong,
/// and the message must not carry it into a log.
fn redact(text: &str) -> String {
    const MARK: &str = "flx";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(MARK) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let end =
            from.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        match word.get(..5) {
            Some(prefix) if word.len() > 30 && prefix.ends_with('_') => {
                out.push_str(prefix);
                out.push('…');
            }
            _ => out.push_str(word),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn kebab_forms_follow_the_contract() {
        for (camel, expected) in [
            ("credsFile", "creds-file"),
            ("volumeID", "volume-id"),
            ("noSSL", "no-ssl"),
            ("noSUID", "no-suid"),
            ("noATime", "no-atime"),
            ("xAttr", "xattr"),
            ("noXAttr", "no-xattr"),
            ("rootSquashUID", "root-squash-uid"),
            ("acl", "acl"),
            ("metaStoreID", "meta-store-id"),
            ("sslCert", "ssl-cert"),
            ("already-kebab", "already-kebab"),
        ] {
            assert_eq!(kebab(camel), expected, "{camel}");
        }
    }

    #[derive(Parser, Debug)]
    #[command(name = "demo")]
    struct Demo {
        #[command(subcommand)]
        command: Inner,
    }

    #[derive(clap::Subcommand, Debug)]
    enum Inner {
        Start {
            #[arg(long = "credsFile")]
            creds_file: Option<String>,
            #[arg(long = "noSSL")]
            no_ssl: bool,
        },
    }

    #[test]
    fn both_spellings_reach_a_subcommand() {
        for words in [["--credsFile", "--noSSL"], ["--creds-file", "--no-ssl"]] {
            let [file, flag] = words;
            let demo: Demo = parse(["demo", "start", file, "x", flag]).unwrap();
            let Inner::Start { creds_file, no_ssl } = demo.command;
            assert_eq!(creds_file.as_deref(), Some("x"));
            assert!(no_ssl);
        }
        with_kebab_aliases(Demo::command()).debug_assert();
    }

    #[test]
    fn usage_errors_end_with_two_and_help_with_zero() {
        let end = |words: &[&str]| format!("{:?}", parse::<Demo, _>(words).unwrap_err());
        assert_eq!(end(&["demo", "start", "--nope"]), format!("{:?}", ExitCode::from(2)));
        assert_eq!(end(&["demo"]), format!("{:?}", ExitCode::from(2)));
        assert_eq!(end(&["demo", "--help"]), format!("{:?}", ExitCode::from(0)));
    }

    #[test]
    fn a_token_in_a_message_is_cut() {
        let token = format!("flxa_{}", "x".repeat(72));
        assert_eq!(redact(&format!("unexpected '{token}' found")), "unexpected 'flxa_…' found");
        assert_eq!(redact("configure.flexfs and flx"), "configure.flexfs and flx");
    }
}
