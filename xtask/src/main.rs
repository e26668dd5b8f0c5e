//! Developer commands: `cargo xtask <command>`. Plain std where it will do, so
//! that it builds in seconds on a machine that has only Rust and a C compiler.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool of developers")]

mod bins;
mod demo;
mod errors;
mod setup;
mod shell;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

/// Any failure, as a sentence for the developer.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Result<T = ()> = std::result::Result<T, Failure>;

const USAGE: &str = "\
usage: cargo xtask <command>
  bins [--release]    build the programs, place them under their dotted names,
                      print that directory as the last line of stdout
  setup               install what tests and demo need (root on Debian or
                      Ubuntu), else name the command that does
  test [filter]       every test, unit to whole-system, on real mounts
  demo [--debug] [--keep]
                      the whole idea on real files with real processes
  demo --stop DIR     end a demo that was kept
  tidy                house rules that the compiler does not check
  errors              write docs/errors.md from the list of error codes";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["bins"] => print_bins(bins::Profile::Debug),
        ["bins", "--release"] => print_bins(bins::Profile::Release),
        ["setup"] => setup::run(setup::Purpose::Test),
        ["test"] => test::run(None),
        ["test", filter] => test::run(Some(filter)),
        ["demo"] => demo::run(bins::Profile::Release, demo::After::CleanUp),
        ["demo", "--debug"] => demo::run(bins::Profile::Debug, demo::After::CleanUp),
        ["demo", "--keep"] => demo::run(bins::Profile::Release, demo::After::Keep),
        ["demo", "--debug", "--keep"] => demo::run(bins::Profile::Debug, demo::After::Keep),
        ["demo", "--stop", directory] => demo::stop(directory.as_ref()),
        ["demo-guard", directory] => demo::guard(directory.as_ref()),
        ["tidy"] => tidy::run(),
        ["errors"] => errors::write(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn print_bins(profile: bins::Profile) -> Result {
    println!("{}", bins::build(profile)?.display());
    Ok(())
}
