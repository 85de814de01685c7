//! Rust sources, and what no text file may hold.

use super::{File, Findings, Tree};

const LINES_MAX: usize = 600;
/// How far above an unsafe block its SAFETY line may stand.
const SAFETY_REACH: usize = 8;

// Written in two halves, so that this file does not find itself.
const PLACEHOLDERS: [&str; 3] = [concat!("to", "do!"), concat!("unimple", "mented!"), concat!("db", "g!")];
const IGNORED: &str = concat!("#[ign", "ore");
const MACHINES: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("arti", "factory")];
const POINT: &str = concat!("crash_", "point!(\"");
/// A crash point in a macro, which is given the name.
const POINT_OF_MACRO: &str = concat!("crash_", "point!($");

pub(super) fn check(tree: &Tree, findings: &mut Findings) {
    for file in &tree.files {
        for (number, line) in numbered(&file.text) {
            for path in MACHINES.iter().filter(|path| line.to_lowercase().contains(*path)) {
                findings.error(at(file, number), format!("names a place of one machine only (`{path}`)"));
            }
        }
    }
    for file in tree.under("", ".rs") {
        check_rust(file, findings);
    }
    for folder in tree.crates() {
        check_crash_points(tree, &folder, findings);
    }
}

fn check_rust(file: &File, findings: &mut Findings) {
    let lines: Vec<&str> = file.text.lines().collect();
    if lines.len() > LINES_MAX {
        findings.warn(&file.path, format!("has {} lines, more than {LINES_MAX}", lines.len()));
    }
    for (index, line) in lines.iter().enumerate() {
        let code = code(line);
        for word in PLACEHOLDERS.iter().filter(|word| has_macro(code, word)) {
            findings.error(at(file, index + 1), format!("`{word}` is left"));
        }
        if code.contains(IGNORED) {
            findings.error(at(file, index + 1), "an ignored test");
        }
        let above = &lines[index.saturating_sub(SAFETY_REACH)..=index];
        if opens_unsafe(code) && !above.iter().any(|line| line.contains("SAFETY:")) {
            findings.error(at(file, index + 1), "unsafe without a SAFETY line");
        }
    }
}

/// Each crash point's name appears in a test, or in a list named `CRASH_POINTS` that a test goes through.
fn check_crash_points(tree: &Tree, folder: &str, findings: &mut Findings) {
    let sources = format!("{folder}src/");
    let tests: Vec<&File> =
        tree.under("crates/", ".rs").filter(|file| file.path.contains("/tests/")).collect();
    let loops = tests.iter().any(|file| file.text.contains("CRASH_POINTS"));
    let listed = |quoted: &str| {
        let lists = tree.under(&sources, ".rs").filter_map(|file| file.text.split_once("CRASH_POINTS"));
        lists.map(|(_, list)| list.split(';').next().unwrap_or_default()).any(|list| list.contains(quoted))
    };
    for file in tree.under(&sources, ".rs") {
        let macros = macros_with_points(&file.text);
        for (number, line) in numbered(&file.text) {
            let Some(name) = crash_point(code(line), &macros) else { continue };
            let quoted = format!("\"{name}\"");
            let named = tests.iter().any(|file| file.text.contains(&quoted));
            let tested = named || (loops && listed(&quoted));
            if !tested {
                findings.error(at(file, number), format!("no test dies at crash point {quoted}"));
            }
        }
    }
}

/// The macros of a file that make a crash point of what they are given.
fn macros_with_points(text: &str) -> Vec<&str> {
    let macros =
        text.split("macro_rules!").skip(1).map(|rest| (rest, rest.split("\n}").next().unwrap_or_default()));
    let with_points = macros.filter(|(_, body)| body.contains(POINT_OF_MACRO));
    with_points.filter_map(|(rest, _)| rest.split_whitespace().next()).collect()
}

/// The crash point in a line, by itself or by way of one of these macros.
fn crash_point<'a>(line: &'a str, macros: &[&str]) -> Option<&'a str> {
    let after = |(_, rest): (&'a str, &'a str)| rest.split('"').next();
    let by_macro = || macros.iter().any(|name| has_macro(line, &format!("{name}!(")));
    line.split_once(POINT)
        .and_then(after)
        .or_else(|| line.split_once('"').filter(|_| by_macro()).and_then(after))
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

fn at(file: &File, line: usize) -> String {
    format!("{}:{line}", file.path)
}

/// The line without its comment. A `//` inside a string cuts too much, which can only hide a finding.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// `name!` not as the end of a longer word.
fn has_macro(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

fn opens_unsafe(code: &str) -> bool {
    ["unsafe {", "unsafe impl"].iter().any(|start| {
        code.match_indices(start)
            .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '"' || c == '_'))
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        let mut findings = Findings::default();
        check(&tree(files), &mut findings);
        findings.errors
    }

    #[test]
    fn placeholders_and_ignored_tests_are_found() {
        assert_eq!(findings(&[("a.rs", &format!("fn f() {{ {}() }}", PLACEHOLDERS[0]))]).len(), 1);
        assert_eq!(findings(&[("a.rs", &format!("{IGNORED}]"))]).len(), 1);
        assert!(findings(&[("a.rs", "mydbg!() // a comment")]).is_empty());
    }

    #[test]
    fn an_unsafe_block_wants_its_safety_line() {
        let block = concat!("uns", "afe { f() }");
        assert_eq!(findings(&[("a.rs", block)]).len(), 1);
        assert!(findings(&[("a.rs", &format!("// SAFETY: f is safe here.\n{block}"))]).is_empty());
    }

    #[test]
    fn a_crash_point_wants_a_test() {
        let manifest = ("crates/a/Cargo.toml", "");
        let source = format!("{POINT}a.step\");");
        let source = ("crates/a/src/lib.rs", source.as_str());
        assert_eq!(findings(&[manifest, source]).len(), 1);
        assert!(findings(&[manifest, source, ("crates/a/tests/it/crash.rs", "\"a.step\"")]).is_empty());
        let list = ("crates/a/src/points.rs", "pub const CRASH_POINTS: &[&str] = &[\"a.step\"];");
        assert!(
            findings(&[manifest, source, list, ("crates/a/tests/it/crash.rs", "a::CRASH_POINTS")]).is_empty()
        );
    }

    #[test]
    fn a_crash_point_by_way_of_a_macro_wants_a_test() {
        let manifest = ("crates/a/Cargo.toml", "");
        let source = format!(
            "macro_rules! step {{\n    ($of:expr, $name:literal) => {{ {POINT_OF_MACRO}name); }};\n}}\n\
            macro_rules! other {{\n    ($name:literal) => {{}};\n}}\n\
            fn f() {{\n    step!(self, \"a.step\");\n    other!(\"a.other\");\n}}\n"
        );
        let source = ("crates/a/src/lib.rs", source.as_str());
        let found = findings(&[manifest, source]);
        assert!(
            found.len() == 1 && found[0].contains("lib.rs:8") && found[0].contains("a.step"),
            "{found:?}"
        );
        assert!(findings(&[manifest, source, ("crates/a/tests/it/crash.rs", "\"a.step\"")]).is_empty());
    }

    #[test]
    fn a_path_of_one_machine_is_found_in_any_text() {
        assert_eq!(findings(&[("README.md", &format!("see {}main", MACHINES[0]))]).len(), 1);
    }
}
