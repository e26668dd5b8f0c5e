//! Everything this program prints on stdout.
#![allow(clippy::print_stdout, reason = "the one place that prints")]

use flexfs_common::{Code, Error, Result};
use serde_json::json;

use crate::cli::Output;
use crate::status::MountStatus;

/// A line.
pub fn line(text: &str) {
    println!("{text}");
}

/// One mount.
///
/// # Errors
/// `INTERNAL` when it cannot be written in this form.
pub fn status_of_one(status: &MountStatus, output: Output) -> Result<()> {
    match output {
        Output::Json => value(status),
        Output::Yaml => yaml(status),
        Output::Table | Output::Wide | Output::Id => {
            table(std::slice::from_ref(status), output);
            Ok(())
        }
    }
}

/// All mounts.
///
/// # Errors
/// `INTERNAL` when they cannot be written in this form.
pub fn status_of_all(all: &[MountStatus], output: Output) -> Result<()> {
    let list = json!({ "items": all, "nextPage": null });
    match output {
        Output::Json => value(&list),
        Output::Yaml => yaml(&list),
        Output::Table | Output::Wide | Output::Id => {
            table(all, output);
            Ok(())
        }
    }
}

fn value(of: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string(of).map_err(|e| Error::bare(Code::Internal).caused_by(e))?;
    println!("{text}");
    Ok(())
}

fn yaml(of: &impl serde::Serialize) -> Result<()> {
    let text =
        serde_yaml_ng::to_string(of).map_err(|e| Error::bare(Code::Internal).caused_by(e))?;
    print!("{text}");
    Ok(())
}

fn table(all: &[MountStatus], output: Output) {
    if output == Output::Id {
        for status in all {
            println!("{}", status.session_id);
        }
        return;
    }
    let head = ["VOLUME", "DIR", "STATE", "SCOPE", "FLAGS", "LEASE", "DIRTY"].map(str::to_owned);
    let more = ["CACHE", "PID", "TOKEN", "SESSION"].map(str::to_owned);
    let wide = output == Output::Wide;
    let row = |status: &MountStatus| {
        let flags = if status.flags.is_empty() { "-".to_owned() } else { status.flags.join(",") };
        let narrow = [
            status.volume.clone(),
            status.dir.clone(),
            status.state.clone(),
            status.mount_path.clone(),
            flags,
            format!("{} ms", status.lease_millis),
            status.dirty_bytes.to_string(),
        ];
        let more = [
            status.cache_bytes.to_string(),
            status.pid.to_string(),
            status.token_id.clone(),
            status.session_id.clone(),
        ];
        narrow.into_iter().chain(more.into_iter().filter(|_| wide)).collect::<Vec<_>>()
    };
    let head: Vec<_> = head.into_iter().chain(more.into_iter().filter(|_| wide)).collect();
    let rows: Vec<_> = std::iter::once(head).chain(all.iter().map(row)).collect();
    for row in &rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count());
            format!("{cell:<0$}", width.max().unwrap_or(0))
        });
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
