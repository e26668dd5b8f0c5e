//! Everything this program prints on stdout.

use std::io::Write;
use std::path::Path;

use flexfs_common::{Result, wire};
use flexfs_proto::v1;

use crate::backup::Summary;

/// How something is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Lines for people.
    Table,
    /// The same, with everything.
    Wide,
    /// One JSON object.
    Json,
    /// The same as YAML (JSON is YAML).
    Yaml,
    /// The id alone.
    Id,
}

/// Prints one line. A closed stdout is no failure of ours.
pub fn line(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Prints the status of a running server.
pub fn status(pid: u32, reply: &v1::MetaStatusReply, format: Format) {
    match format {
        Format::Id => line(&reply.server_id),
        Format::Json | Format::Yaml => line(&status_json(pid, reply).to_string()),
        Format::Table | Format::Wide => {
            line(&format!("server    {}", reply.server_id));
            line(&format!("pid       {pid}"));
            line(&format!("version   {}", reply.version));
            line(&format!("address   {}", reply.address));
            line(&format!("admin     {}", reply.admin_addr));
            line(&format!("feed      {} at {}", reply.feed_state, reply.feed_revision));
            line(&format!("volumes   {}", reply.volumes));
            line(&format!("sessions  {}", reply.sessions));
            if let Some(disk) = &reply.disk {
                let (free, reserve) = (disk.free_bytes, disk.reserve_bytes);
                line(&format!("disk      {}: {free} bytes free, {reserve} kept", disk.state));
            }
            for held in &reply.held_volumes {
                let since = held.since.as_ref().map(time).unwrap_or_default();
                let volume = &held.volume_id;
                line(&format!("held      {volume}: nothing collected since restore at {since}"));
            }
            if format == Format::Wide {
                for view in &reply.session_views {
                    line(&format!(
                        "session   {} token {} volume {} {} {}:{} from {}",
                        view.session_id,
                        view.token_id,
                        view.volume_id,
                        view.mount_path,
                        printable(&view.host_name),
                        printable(&view.dir),
                        view.peer
                    ));
                }
            }
        }
    }
}

/// What a client said of itself must not control the terminal.
fn printable(text: &str) -> String {
    text.escape_debug().to_string()
}

fn time(at: &v1::Timestamp) -> String {
    wire::timestamp_from_wire(at).map(|at| at.to_string()).unwrap_or_default()
}

/// Prints what a backup holds that was written or restored.
pub fn backup(done: &str, summary: &Summary, path: &Path, format: Format) {
    let made_at = jiff::Timestamp::from_nanosecond(i128::from(summary.made_at));
    let made_at = made_at.map(|at| at.to_string()).unwrap_or_default();
    let (volumes, rows) = (summary.volumes, summary.rows);
    match format {
        Format::Id => {}
        Format::Table | Format::Wide => {
            let file = printable(&path.to_string_lossy());
            line(&format!("{done} {volumes} volumes, {rows} rows, as of {made_at}: {file}"));
        }
        Format::Json | Format::Yaml => {
            let whole = serde_json::json!({
                "file": path.to_string_lossy(),
                "madeAt": made_at,
                "volumes": volumes,
                "rows": rows,
            });
            line(&whole.to_string());
        }
    }
}

/// Prints in which volumes collection goes on now.
pub fn confirmed(volume_ids: &[String], format: Format) {
    match format {
        Format::Json | Format::Yaml => {
            line(&serde_json::json!({ "confirmed": volume_ids }).to_string());
        }
        Format::Id => volume_ids.iter().for_each(|id| line(id)),
        Format::Table | Format::Wide if volume_ids.is_empty() => line("no volume was held"),
        Format::Table | Format::Wide => {
            volume_ids.iter().for_each(|id| line(&format!("{id}: collection goes on")));
        }
    }
}

fn status_json(pid: u32, reply: &v1::MetaStatusReply) -> serde_json::Value {
    let views: Vec<_> = reply
        .session_views
        .iter()
        .map(|view| {
            let opened = view.opened_at.as_ref().map(wire::timestamp_from_wire);
            serde_json::json!({
                "sessionID": view.session_id,
                "tokenID": view.token_id,
                "volumeID": view.volume_id,
                "mountPath": view.mount_path,
                "hostName": view.host_name,
                "dir": view.dir,
                "peer": view.peer,
                "openedAt": opened.and_then(Result::ok).map(|at| at.to_string()),
            })
        })
        .collect();
    let held: Vec<_> = reply
        .held_volumes
        .iter()
        .map(|held| {
            let since = held.since.as_ref().map(time);
            serde_json::json!({ "volumeID": held.volume_id, "since": since })
        })
        .collect();
    serde_json::json!({
        "id": reply.server_id,
        "pid": pid,
        "version": reply.version,
        "address": reply.address,
        "adminAddr": reply.admin_addr,
        "feedState": reply.feed_state,
        "feedRevision": reply.feed_revision,
        "volumes": reply.volumes,
        "sessions": reply.sessions,
        "sessionItems": views,
        "held": held,
        "disk": reply.disk.as_ref().map(|disk| serde_json::json!({
            "state": disk.state,
            "freeBytes": disk.free_bytes,
            "reserveBytes": disk.reserve_bytes,
        })),
    })
}

/// Prints one finding of `verify`, as it is found.
pub fn finding(finding: &v1::VerifyFinding, format: Format) {
    if matches!(format, Format::Table | Format::Wide) {
        line(&format!(
            "{} {}: {}",
            finding.volume_id,
            finding.invariant,
            printable(&finding.message)
        ));
    }
}

/// Prints what `verify` looked at.
pub fn verified(summary: &v1::VerifySummary, findings: &[v1::VerifyFinding], format: Format) {
    match format {
        Format::Id => {}
        Format::Table | Format::Wide => line(&format!(
            "{} volumes, {} inodes, {} dentries, {} extents: {} findings",
            summary.volumes, summary.inodes, summary.dentries, summary.extents, summary.findings
        )),
        Format::Json | Format::Yaml => {
            let items: Vec<_> = findings
                .iter()
                .map(|finding| {
                    serde_json::json!({
                        "volumeID": finding.volume_id,
                        "invariant": finding.invariant,
                        "message": finding.message,
                    })
                })
                .collect();
            let whole = serde_json::json!({
                "volumes": summary.volumes,
                "inodes": summary.inodes,
                "dentries": summary.dentries,
                "extents": summary.extents,
                "findings": summary.findings,
                "items": items,
            });
            line(&whole.to_string());
        }
    }
}
