//! Shell completions and manual pages, from the command tree itself.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell as Generator;
use flexfs_common::{Code, Error, Result};

use crate::PROGRAM;
use crate::args::{Cli, Shell};
use crate::output::{Output, note};

/// `completions`
pub(crate) fn completions(shell: Shell) -> Result<()> {
    let generator = match shell {
        Shell::Bash => Generator::Bash,
        Shell::Zsh => Generator::Zsh,
        Shell::Fish => Generator::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(generator, &mut Cli::command(), PROGRAM, &mut script);
    Output::raw(&script)
}

/// `man`
pub(crate) fn man(dir: &Path) -> Result<()> {
    let failed = |e: std::io::Error| {
        Error::new(Code::ConfigInvalid, format!("cannot write to {}", dir.display())).caused_by(e)
    };
    if !dir.is_dir() {
        let message = format!("{} is not a directory", dir.display());
        return Err(Error::new(Code::ArgumentInvalid, message));
    }
    clap_mangen::generate_to(Cli::command(), dir).map_err(failed)?;
    note(&format!("manual pages written to {}; `man -l {0}/{PROGRAM}.1` shows one", dir.display()));
    Ok(())
}
