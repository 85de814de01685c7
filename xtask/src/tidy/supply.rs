//! What is depended on: where it comes from, and under which licence. `deny.toml` says what is allowed; `cargo deny` checks
//! more, where it is installed.

use super::{Findings, Tree};

const PAGE: &str = "deny.toml";
const LOCK: &str = "Cargo.lock";
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// `licences` are names with their licence, as `cargo metadata` tells them.
pub(super) fn check(tree: &Tree, licences: &[(String, String)], findings: &mut Findings) {
    let Some(page) = tree.get(PAGE) else {
        findings.error(PAGE, "does not exist");
        return;
    };
    let allowed = allowed(&page.text);
    for (name, licence) in licences {
        if !allows(&allowed, licence) {
            findings.error(PAGE, format!("does not allow the licence of `{name}`, which is {licence:?}"));
        }
    }
    for package in tree.get(LOCK).into_iter().flat_map(|lock| lock.text.split("[[package]]").skip(1)) {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
            line.map(|value| value.trim_matches('"'))
        };
        let Some(source) = value("source") else { continue };
        let name = value("name").unwrap_or_default();
        if source != REGISTRY || value("checksum").is_none() {
            findings.error(LOCK, format!("has `{name}` from elsewhere than the registry: {source}"));
        }
    }
}

/// The strings of the list `allow`.
fn allowed(page: &str) -> Vec<&str> {
    let list = page.split_once("allow = [").and_then(|(_, rest)| rest.split_once(']'));
    list.map_or(Vec::new(), |(list, _)| list.split('"').skip(1).step_by(2).collect())
}

/// Whether an SPDX expression can be met by the licences that are allowed.
fn allows(allowed: &[&str], expression: &str) -> bool {
    // An old form of OR.
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = text.split_whitespace().peekable();
    either(allowed, &mut words) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(allowed: &[&str], words: &mut Words<'_>) -> bool {
    let mut met = both(allowed, words);
    while words.next_if_eq(&"OR").is_some() {
        met |= both(allowed, words);
    }
    met
}

fn both(allowed: &[&str], words: &mut Words<'_>) -> bool {
    let mut met = one(allowed, words);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(allowed, words);
    }
    met
}

fn one(allowed: &[&str], words: &mut Words<'_>) -> bool {
    match words.next() {
        Some("(") => {
            let met = either(allowed, words);
            words.next_if_eq(&")").is_some() && met
        }
        Some(name) => match words.next_if_eq(&"WITH").and_then(|_| words.next()) {
            Some(exception) => allowed.contains(&format!("{name} WITH {exception}").as_str()),
            None => allowed.contains(&name),
        },
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    #[test]
    fn expressions_are_met_or_not() {
        let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Zlib"];
        for good in [
            "MIT",
            "GPL-3.0 OR MIT",
            "MIT/Apache-2.0",
            "(MIT OR GPL-3.0) AND Zlib",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(allows(&allowed, good), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Zlib", "MIT WITH LLVM-exception", "MIT Zlib"] {
            assert!(!allows(&allowed, bad), "{bad}");
        }
    }

    #[test]
    fn another_source_and_another_licence_are_found() {
        let lock =
            |source: &str| format!("[[package]]\nname = \"a\"\nsource = \"{source}\"\nchecksum = \"1\"\n");
        let found = |source: &str, licence: &str| {
            let (mut findings, lock) = (Findings::default(), lock(source));
            let tree = tree(&[("deny.toml", "allow = [\n    \"MIT\",\n]"), ("Cargo.lock", &lock)]);
            check(&tree, &[("a".to_owned(), licence.to_owned())], &mut findings);
            findings.errors.len()
        };
        assert_eq!(found(REGISTRY, "MIT OR Apache-2.0"), 0);
        assert_eq!(found("git+https://example.org/a", "MIT"), 1);
        assert_eq!(found(REGISTRY, "GPL-3.0"), 1);
    }
}
