//! What the workspace holds, as `cargo metadata` tells it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The workspace's root folder.
///
/// # Panics
///
/// If this crate does not lie one folder below the root.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace's root")
}

/// The folder for build output.
pub(crate) fn target() -> PathBuf {
    root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// One member of the workspace.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) published: bool,
    pub(crate) has_lib: bool,
    /// All features but `default`, sorted.
    pub(crate) features: Vec<String>,
    pub(crate) examples: Vec<Example>,
}

/// One example target.
pub(crate) struct Example {
    pub(crate) name: String,
    pub(crate) source: PathBuf,
}

/// All members, in the order that cargo gives.
pub(crate) fn packages() -> Result<Vec<Package>, String> {
    Ok(array(&metadata(&["--no-deps"])?["packages"]).iter().map(package).collect())
}

/// Everything that the workspace depends on, itself included, with the licence. Nothing is downloaded.
pub(crate) fn licences() -> Result<Vec<(String, String)>, String> {
    let metadata =
        metadata(&["--all-features", "--offline", "--filter-platform", "x86_64-unknown-linux-gnu"])?;
    let packages = array(&metadata["packages"]).iter();
    Ok(packages.map(|package| (text(&package["name"]), text(&package["license"]))).collect())
}

fn metadata(options: &[&str]) -> Result<Value, String> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1"])
        .args(options)
        .current_dir(root())
        .output()
        .map_err(|error| format!("failed to run `cargo metadata`: {error}"))?;
    if !output.status.success() {
        return Err(format!("`cargo metadata` failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("failed to read the output of `cargo metadata`: {error}"))
}

/// The least Rust version that the manifests take.
pub(crate) fn rust_version() -> Result<String, String> {
    let metadata = metadata(&["--no-deps"])?;
    Ok(array(&metadata["packages"])
        .iter()
        .map(|package| text(&package["rust_version"]))
        .max()
        .unwrap_or_default())
}

fn package(value: &Value) -> Package {
    let manifest = PathBuf::from(text(&value["manifest_path"]));
    let targets = array(&value["targets"]);
    let is_kind = |target: &Value, kind: &str| array(&target["kind"]).iter().any(|one| text(one) == kind);
    let mut features: Vec<String> =
        value["features"].as_object().into_iter().flatten().map(|one| one.0.clone()).collect();
    features.retain(|feature| feature != "default");
    features.sort();
    Package {
        name: text(&value["name"]),
        folder: manifest.parent().map(Path::to_owned).unwrap_or_default(),
        // `publish = false` is an empty list of registries.
        published: value["publish"].as_array().is_none_or(|registries| !registries.is_empty()),
        has_lib: targets.iter().any(|target| is_kind(target, "lib") || is_kind(target, "proc-macro")),
        features,
        examples: targets
            .iter()
            .filter(|target| is_kind(target, "example"))
            .map(|target| Example { name: text(&target["name"]), source: text(&target["src_path"]).into() })
            .collect(),
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// All files below `folder` whose name ends in one of `endings`, without build output and hidden folders, sorted.
pub(crate) fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && (name == "target" || name == ".git") => {}
                Ok(kind) if kind.is_dir() => folders.push(path),
                Ok(_) if endings.iter().any(|ending| name.ends_with(ending)) => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}
