//! `cargo xtask tidy`: the house rules that a program can check. Run by `cargo test` too.

mod api;
mod conformance;
mod guide;
mod items;
mod manifests;
mod sources;
mod supply;

use std::fs;
use std::path::Path;

use crate::workspace::{files, licences};
use crate::{Outcome, root};

const HELP: &str = "\
Checks the house rules that a program can check; `cargo test` runs it too.

Usage: cargo xtask tidy

Each crate has a README, the workspace's lints and a reason beside each dependency; one that is published also licences
and metadata. No placeholder macros, no ignored tests, a SAFETY line at each unsafe block, a test for each crash point, no
machine's own paths. The changelog names the current version. Each test that docs/conformance.md and the pitfalls of
docs/guide.md name exists; so does what docs/api.md names as ours, which has a line for each row of CPython's API. What is
depended on comes from the registry, under a licence that deny.toml allows. A file of more than 600 lines is a warning.";

/// The repository as tidy sees it: every text file that belongs to it.
struct Tree {
    files: Vec<File>,
}

/// One text file, its path relative to the root.
struct File {
    path: String,
    text: String,
}

/// What was found: what must be mended, and what should be looked at.
#[derive(Debug, Default)]
struct Findings {
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Findings {
    fn error(&mut self, place: impl AsRef<str>, what: impl AsRef<str>) {
        self.errors.push(format!("{}: {}", place.as_ref(), what.as_ref()));
    }

    fn warn(&mut self, place: impl AsRef<str>, what: impl AsRef<str>) {
        self.warnings.push(format!("{}: {}", place.as_ref(), what.as_ref()));
    }
}

impl Tree {
    fn read(root: &Path) -> Tree {
        let mut endings = vec![".rs", ".toml", ".md", ".py", ".sh", ".yml", ".lock", ".ci/run"];
        endings.extend(manifests::LICENCES);
        let mut paths = files(root, &endings);
        paths.push(root.join(".ci/run"));
        let files = paths
            .into_iter()
            .filter_map(|path| {
                let text = fs::read_to_string(&path).ok()?;
                Some(File { path: path.strip_prefix(root).ok()?.to_string_lossy().into_owned(), text })
            })
            .collect();
        Tree { files }
    }

    fn get(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Files below a folder (given with its slash) that end so.
    fn under<'a>(&'a self, folder: &'a str, ending: &'a str) -> impl Iterator<Item = &'a File> {
        self.files.iter().filter(move |file| file.path.starts_with(folder) && file.path.ends_with(ending))
    }

    /// The folders of `crates/`, as `crates/NAME/`.
    fn crates(&self) -> Vec<String> {
        let manifests = self.under("crates/", "/Cargo.toml");
        manifests
            .filter_map(|file| file.path.strip_suffix("Cargo.toml"))
            .filter(|folder| folder.matches('/').count() == 2)
            .map(str::to_owned)
            .collect()
    }
}

fn check(root: &Path) -> Findings {
    let tree = Tree::read(root);
    let mut findings = Findings::default();
    manifests::check(&tree, &mut findings);
    sources::check(&tree, &mut findings);
    conformance::check(&tree, &mut findings);
    let items = items::Items::read(&tree);
    api::check(&tree, &items, &mut findings);
    guide::check(&tree, &mut findings);
    match licences() {
        Ok(licences) => supply::check(&tree, &licences, &mut findings),
        Err(error) => {
            findings.warn("deny.toml", format!("the licences of dependencies were not checked: {error}"))
        }
    }
    findings
}

/// Runs the command.
///
/// # Errors
///
/// Every rule that is broken, one line each.
pub fn run(args: &[String]) -> Outcome {
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        println!("{HELP}");
        return Ok(());
    }
    let findings = check(root());
    for warning in &findings.warnings {
        eprintln!("warning: {warning}");
    }
    match findings.errors.is_empty() {
        true => Ok(()),
        false => Err(format!("tidy found:\n  {}", findings.errors.join("\n  "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree in memory: pairs of path and text.
    pub(super) fn tree(files: &[(&str, &str)]) -> Tree {
        let files =
            files.iter().map(|(path, text)| File { path: (*path).into(), text: (*text).into() }).collect();
        Tree { files }
    }

    #[test]
    fn the_repository_is_tidy() {
        let findings = check(root());
        assert!(findings.errors.is_empty(), "{}", findings.errors.join("\n"));
    }
}
