//! `docs/conformance.md`: every test of ours that it names exists, and a row without one says why.

use super::{Findings, Tree};

const PAGE: &str = "docs/conformance.md";

pub(super) fn check(tree: &Tree, findings: &mut Findings) {
    let Some(page) = tree.get(PAGE) else {
        findings.error(PAGE, "does not exist");
        return;
    };
    for (index, line) in page.text.lines().enumerate() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let [number, _, ours, deviation] = cells[..] else { continue };
        if !line.starts_with('|') || number == "#" || number.starts_with('-') {
            continue;
        }
        let place = format!("{PAGE}:{}", index + 1);
        let mut named = 0;
        for path in ours.split('`').skip(1).step_by(2) {
            named += 1;
            if !exists(tree, path) {
                findings.error(&place, format!("row {number}: there is no test `{path}`"));
            }
        }
        if named == 0 && deviation.is_empty() {
            findings.error(&place, format!("row {number} names no test and no reason"));
        }
    }
}

/// `crate::file::function`: a test function in `crates/CRATE/tests/it/FILE.rs`, or in a source file of the crate.
pub(super) fn exists(tree: &Tree, path: &str) -> bool {
    let parts: Vec<&str> = path.split("::").collect();
    let [name, modules @ .., function] = &parts[..] else { return false };
    let module = modules.join("/");
    let endings = [format!("/{module}.rs"), format!("/{module}/mod.rs")];
    let folder = format!("crates/{name}/");
    let mut files = tree.under(&folder, ".rs");
    files.any(|file| {
        endings.iter().any(|ending| file.path.ends_with(ending)) && has_test(&file.text, function)
    })
}

/// A function of that name with `#[test]` among the attributes and comments right above it, or listed in a macro
/// `each_…!` that makes a test of it for each start method.
fn has_test(text: &str, function: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let definition = format!("fn {function}(");
    lines.iter().enumerate().any(|(index, line)| {
        let mut above =
            lines[..index].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        line.starts_with(&definition) && (above.any(|line| *line == "#[test]") || is_listed(text, function))
    })
}

fn is_listed(text: &str, function: &str) -> bool {
    let lists = text.split("each_").skip(1).filter_map(|rest| rest.split_once('!'));
    let lists = lists.filter(|(name, list)| {
        !name.contains(char::is_whitespace) && list.trim_start().starts_with(['(', '{'])
    });
    let mut words = lists.flat_map(|(_, list)| {
        let list = list.split([')', '}']).next().unwrap_or_default();
        list.split(|c: char| !c.is_alphanumeric() && c != '_')
    });
    words.any(|word| word == function)
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    fn findings(row: &str) -> Vec<String> {
        let mut findings = Findings::default();
        let page = format!("| # | CPython test | ours | deviation |\n|---|---|---|---|\n{row}");
        let test = "each_method! {\n    it_always_holds,\n}\n#[test]\nfn it_holds() {}\nfn a_helper() {}\n\
                    fn it_always_holds(method: StartMethod) {}";
        check(&tree(&[(PAGE, &page), ("crates/a/tests/it/life.rs", test)]), &mut findings);
        findings.errors
    }

    #[test]
    fn a_named_test_must_exist() {
        assert!(findings("| 1 | x | `a::life::it_holds` | |").is_empty());
        assert!(findings("| 1 | x | `a::life::it_always_holds` | |").is_empty());
        for wrong in ["a::life::it_fails", "a::life::a_helper", "a::death::it_holds", "b::life::it_holds"] {
            assert_eq!(findings(&format!("| 1 | x | `{wrong}` | |")).len(), 1, "{wrong}");
        }
    }

    #[test]
    fn a_row_without_a_test_gives_its_reason() {
        assert!(findings("| 1 | x | — | n/a: the type system |").is_empty());
        assert_eq!(findings("| 1 | x | — | |").len(), 1);
    }
}
