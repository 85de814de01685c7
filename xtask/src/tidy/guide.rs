//! `docs/guide.md`: each pitfall names tests, and they exist.

use super::{Findings, Tree, conformance};

const PAGE: &str = "docs/guide.md";
const HEADING: &str = "## Pitfalls";

pub(super) fn check(tree: &Tree, findings: &mut Findings) {
    let Some(page) = tree.get(PAGE) else {
        findings.error(PAGE, "does not exist");
        return;
    };
    let pitfalls = page.text.lines().enumerate().skip_while(|(_, line)| *line != HEADING);
    let mut rows = 0;
    for (index, line) in pitfalls.filter(|(_, line)| line.starts_with("| ")).skip(1) {
        let place = format!("{PAGE}:{}", index + 1);
        rows += 1;
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let [number, _, ours, tests] = cells[..] else {
            findings.error(place, "a pitfall has four cells");
            continue;
        };
        if number != rows.to_string() {
            findings.error(&place, format!("pitfall {number} stands where {rows} should"));
        }
        let mut named = 0;
        for path in tests.split('`').skip(1).step_by(2) {
            named += 1;
            if !conformance::exists(tree, path) {
                findings.error(&place, format!("pitfall {number}: there is no test `{path}`"));
            }
        }
        if named == 0 && !ours.starts_with("not yet") && !ours.starts_with("n/a") {
            findings.error(&place, format!("pitfall {number} names no test"));
        }
    }
    if rows == 0 {
        findings.error(PAGE, "has no pitfalls");
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    fn findings(rows: &str) -> Vec<String> {
        let mut findings = Findings::default();
        let page = format!("# Guide\n{HEADING}\n| # | in CPython | here | test |\n|---|---|---|---|\n{rows}");
        let test = "#[test]\nfn it_holds() {}";
        check(&tree(&[(PAGE, &page), ("crates/a/tests/it/life.rs", test)]), &mut findings);
        findings.errors
    }

    #[test]
    fn a_pitfall_names_a_test_that_exists() {
        assert_eq!(findings("| 1 | x | y | `a::life::it_holds` |\n| 2 | x | not yet: z | |"), [""; 0]);
        assert_eq!(findings("| 1 | x | y | `a::life::it_fails` |").len(), 1);
        assert_eq!(findings("| 1 | x | y | |").len(), 1);
        assert_eq!(findings("| 2 | x | n/a | |").len(), 1);
        assert_eq!(findings("").len(), 1);
    }
}
