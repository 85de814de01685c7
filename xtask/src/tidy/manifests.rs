//! Manifests, READMEs and the changelog.

use super::{Findings, Tree};

/// In the root, and linked from each published crate, since a package holds its own folder only.
pub(super) const LICENCES: [&str; 2] = ["LICENSE-MIT", "LICENSE-APACHE"];

pub(super) fn check(tree: &Tree, findings: &mut Findings) {
    for folder in tree.crates() {
        let place = format!("{folder}Cargo.toml");
        if tree.get(&format!("{folder}README.md")).is_none() {
            findings.error(&folder, "has no README.md");
        }
        let Some(manifest) = tree.get(&place) else { continue };
        let published = !manifest.text.contains("publish = false");
        if published && !manifest.text.contains("description = ") {
            findings.error(&place, "has no description");
        }
        if published {
            check_published(tree, &folder, &manifest.text, findings);
        }
        check_lints(&place, &manifest.text, findings);
        check_reasons(&place, &manifest.text, findings);
    }
    for place in ["xtask/Cargo.toml", "benches/Cargo.toml", "examples/Cargo.toml"] {
        if let Some(manifest) = tree.get(place) {
            check_lints(place, &manifest.text, findings);
            check_reasons(place, &manifest.text, findings);
        }
    }
    let version = tree.get("Cargo.toml").and_then(|file| version(&file.text)).unwrap_or_default();
    match tree.get("CHANGELOG.md") {
        Some(file) if file.text.contains(&version) => {}
        Some(_) => findings.error("CHANGELOG.md", format!("does not name the current version {version}")),
        None => findings.error("CHANGELOG.md", "does not exist"),
    }
}

/// What a reader of the registry's page, docs.rs and a lawyer look for.
fn check_published(tree: &Tree, folder: &str, manifest: &str, findings: &mut Findings) {
    let keys = [
        "rust-version",
        "license",
        "readme",
        "documentation",
        "keywords",
        "categories",
        "[package.metadata.docs.rs]",
    ];
    for key in keys {
        if !manifest.lines().any(|line| line.starts_with(key)) {
            findings.error(format!("{folder}Cargo.toml"), format!("is published and has no `{key}`"));
        }
    }
    for name in LICENCES {
        if tree.get(&format!("{folder}{name}")).is_none() {
            findings.error(folder, format!("is published without a link to `{name}`"));
        }
    }
}

fn version(manifest: &str) -> Option<String> {
    let line = manifest.lines().find(|line| line.starts_with("version = "))?;
    Some(line.split('"').nth(1)?.to_owned())
}

fn check_lints(place: &str, manifest: &str, findings: &mut Findings) {
    let lines: Vec<&str> = manifest.lines().collect();
    if !lines.windows(2).any(|pair| pair[0].trim() == "[lints]" && pair[1].trim() == "workspace = true") {
        findings.error(place, "does not take the workspace's lints (`[lints] workspace = true`)");
    }
}

/// A dependency says why it is there: on its line, or in the comment above it or above its group.
fn check_reasons(place: &str, manifest: &str, findings: &mut Findings) {
    let mut in_dependencies = false;
    let mut explained = false;
    for (index, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            in_dependencies = line.ends_with("dependencies]");
            explained = false;
        } else if line.is_empty() {
            explained = false;
        } else if line.starts_with('#') {
            explained = true;
        } else if in_dependencies && line.contains('=') {
            if !explained && !line.contains(" # ") {
                let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
                findings
                    .error(format!("{place}:{}", index + 1), format!("dependency `{name}` gives no reason"));
            }
            explained = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    fn findings(manifest: &str) -> Vec<String> {
        let mut findings = Findings::default();
        check(
            &tree(&[
                ("Cargo.toml", "[workspace.package]\nversion = \"1.2.3\""),
                ("CHANGELOG.md", "## 1.2.3"),
                ("crates/a/README.md", ""),
                ("crates/a/Cargo.toml", &format!("publish = false\n{manifest}")),
            ]),
            &mut findings,
        );
        findings.errors
    }

    #[test]
    fn a_published_crate_without_licences_or_metadata_is_found() {
        let whole = "description = \"x\"\nrust-version.workspace = true\nlicense = \"x\"\nreadme = \"x\"\ndocumentation = \"x\"\nkeywords = []\n\
                     categories = []\n[package.metadata.docs.rs]\n[lints]\nworkspace = true";
        let mut files = vec![
            ("Cargo.toml", "version = \"1\""),
            ("CHANGELOG.md", "1"),
            ("crates/a/README.md", ""),
            ("crates/a/LICENSE-MIT", ""),
            ("crates/a/LICENSE-APACHE", ""),
            ("crates/a/Cargo.toml", whole),
        ];
        let found = |files: &[(&str, &str)]| {
            let mut findings = Findings::default();
            check(&tree(files), &mut findings);
            findings.errors
        };
        assert_eq!(found(&files), [""; 0]);
        files.remove(3);
        let bare = whole.replace("[package.metadata.docs.rs]\n", "");
        files.pop();
        files.push(("crates/a/Cargo.toml", &bare));
        assert_eq!(found(&files).len(), 2);
    }

    #[test]
    fn a_dependency_without_a_reason_is_found() {
        let head = "description = \"x\"\n[lints]\nworkspace = true\n[dependencies]\n";
        assert!(findings(&format!("{head}# Why.\na = \"1\"\nb = \"1\" # Why.")).is_empty());
        let found = findings(&format!("{head}# Why.\na = \"1\"\nb.workspace = true"));
        assert!(found.len() == 1 && found[0].contains("`b`"), "{found:?}");
    }

    #[test]
    fn a_crate_without_the_lints_is_found() {
        assert!(findings("description = \"x\"")[0].contains("lints"));
    }
}
