//! `docs/api.md`: every row of CPython's API has its line, and what the line names as ours is there.

use super::{Findings, Tree, items::Items};

const PAGE: &str = "docs/api.md";
/// How many rows each part has, in the page's order.
const ROWS: [(char, u32); 13] = [
    ('P', 28),
    ('C', 17),
    ('N', 18),
    ('Q', 17),
    ('S', 18),
    ('V', 12),
    ('M', 12),
    ('G', 35),
    ('L', 32),
    ('D', 2),
    ('E', 19),
    ('R', 9),
    ('U', 8),
];

pub(super) fn check(tree: &Tree, items: &Items, findings: &mut Findings) {
    let Some(page) = tree.get(PAGE) else {
        findings.error(PAGE, "does not exist");
        return;
    };
    let mut expected =
        ROWS.iter().flat_map(|(part, rows)| (1..=*rows).map(move |row| format!("{part}{row:02}")));
    for (index, line) in page.text.lines().enumerate() {
        // A bar inside of code is written `\|`.
        let line = line.replace("\\|", "/");
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let [id, _, ours, remark] = cells[..] else { continue };
        if !line.starts_with('|') || id == "id" || id.starts_with('-') {
            continue;
        }
        let place = format!("{PAGE}:{}", index + 1);
        match expected.next() {
            Some(next) if next == id => {}
            Some(next) => {
                findings.error(&place, format!("row {id} stands where {next} should"));
                return;
            }
            None => findings.error(&place, format!("row {id} is one too many")),
        }
        let mut named = 0;
        for path in ours.split('`').skip(1).step_by(2) {
            named += 1;
            if !items.has(path) {
                findings.error(&place, format!("row {id}: there is no public `{path}`"));
            }
        }
        if named == 0 && remark.is_empty() && ours != "not yet" {
            findings.error(&place, format!("row {id} names nothing of ours and no reason"));
        }
    }
    if let Some(next) = expected.next() {
        findings.error(PAGE, format!("there is no row {next}"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    fn findings(change: impl Fn(String) -> String) -> Vec<String> {
        let ids = ROWS.iter().flat_map(|(part, rows)| (1..=*rows).map(move |row| format!("{part}{row:02}")));
        let rows: String = ids.map(|id| format!("| {id} | x \\| y | `Pool::map` | |\n")).collect();
        let page = change(format!("| id | Python | ours | remark |\n|---|---|---|---|\n{rows}"));
        let tree = tree(&[
            (PAGE, &page),
            ("crates/pool/Cargo.toml", ""),
            ("crates/pool/src/lib.rs", "pub struct Pool;\nimpl Pool {\n    pub fn map() {}\n}"),
            ("crates/procession/src/lib.rs", "pub use procession_pool::Pool;"),
        ]);
        let mut findings = Findings::default();
        check(&tree, &Items::read(&tree), &mut findings);
        findings.errors
    }

    #[test]
    fn each_row_is_there_once_in_order_and_names_what_there_is() {
        assert_eq!(findings(|page| page), [""; 0]);
        assert_eq!(findings(|page| page.replace("| P02 |", "| P03 |")).len(), 1);
        assert_eq!(findings(|page| page.replace("| U08 | x \\| y | `Pool::map` | |\n", "")).len(), 1);
        assert_eq!(findings(|page| page + "| X01 | x | not yet | |\n").len(), 1);
        let first = "| P01 | x \\| y | `Pool::map` | |";
        assert_eq!(findings(|page| page.replace(first, "| P01 | x | `Pool::fold` | |")).len(), 1);
        assert_eq!(findings(|page| page.replace(first, "| P01 | x | — | |")).len(), 1);
        for fine in ["| P01 | x | — | n/a |", "| P01 | x | not yet | |"] {
            assert!(findings(|page| page.replace(first, fine)).is_empty());
        }
    }
}
