//! Which crate may depend on which.

use std::path::Path;

use crate::{Result, shell};

/// Each crate and what it may depend on. A new edge is a line here, which
/// review sees.
const LAYERS: &[(&str, &[&str])] = &[
    ("flexfs-proto", &[]),
    ("flexfs-common", &["flexfs-proto"]),
    ("flexfs-auth", &["flexfs-proto", "flexfs-common"]),
    ("flexfs-admin", &["flexfs-proto", "flexfs-common", "flexfs-auth"]),
    ("flexfs-meta", &["flexfs-proto", "flexfs-common", "flexfs-auth"]),
    ("flexfs-mount", &["flexfs-proto", "flexfs-common", "flexfs-auth"]),
    ("flexfs-configure", &["flexfs-proto", "flexfs-common", "flexfs-auth"]),
    ("flexfs-tests", &["flexfs-proto", "flexfs-common", "flexfs-auth"]),
    ("xtask", &[]),
];

/// Compares every edge between workspace members with the table, and sees
/// that members name no versions.
pub(super) fn check() -> Result<Vec<String>> {
    let mut command = shell::cargo();
    command.args(["metadata", "--no-deps", "--format-version=1", "--offline"]);
    let metadata: serde_json::Value = serde_json::from_str(&shell::capture(&mut command)?)?;
    let mut findings = Vec::new();
    for package in array(&metadata, "packages") {
        let name = text(package, "name");
        let Some((_, allowed)) = LAYERS.iter().find(|(member, _)| *member == name) else {
            findings.push(format!("{name}: not in the table of layers (xtask/src/tidy/layers.rs)"));
            continue;
        };
        for dependency in array(package, "dependencies") {
            let target = text(dependency, "name");
            let ours = LAYERS.iter().any(|(member, _)| *member == target);
            if ours && !allowed.contains(&target) {
                findings.push(format!("{name} must not depend on {target}"));
            }
        }
        let manifest = std::fs::read_to_string(Path::new(text(package, "manifest_path")))?;
        findings.extend(versions(name, &manifest));
    }
    Ok(findings)
}

/// Dependencies of a member that name a version, a path or a repository
/// themselves.
fn versions(name: &str, manifest: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let mut in_dependencies = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies");
        } else if in_dependencies
            && line.contains('=')
            && !line.contains("workspace = true")
            && !line.contains(".workspace")
        {
            findings.push(format!("{name}: `{line}`: versions stand in the root manifest alone"));
        }
    }
    findings
}

fn array<'a>(value: &'a serde_json::Value, key: &str) -> &'a [serde_json::Value] {
    value.get(key).and_then(serde_json::Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a serde_json::Value, key: &str) -> &'a str {
    value.get(key).and_then(serde_json::Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_in_a_member_is_found() {
        let manifest = "[package]\nversion.workspace = true\n[dependencies]\n\
                        a.workspace = true\nb = { workspace = true, features = [\"x\"] }\n\
                        c = \"1\"\n[lints]\nworkspace = true\n";
        assert_eq!(versions("m", manifest).len(), 1);
    }

    #[test]
    fn no_leaf_depends_on_a_leaf_and_the_table_has_no_cycle() {
        for (index, (_, allowed)) in LAYERS.iter().enumerate() {
            for target in *allowed {
                let position = LAYERS.iter().position(|(member, _)| member == target);
                assert!(position.is_some_and(|position| position < index), "{target}");
            }
        }
    }
}
