//! The public items of the crates, as far as a search of the text can tell: enough to find a name that is not there.

use std::collections::{HashMap, HashSet};

use super::{File, Tree};

const FACADE: &str = "crates/procession/src/lib.rs";

/// What a folder of `crates/` declares.
#[derive(Default)]
struct Crate {
    /// Functions, types, constants, modules and macros (`name!`), wherever they are declared.
    items: HashSet<String>,
    /// What the root exports, from here or from elsewhere.
    exported: HashSet<String>,
    /// Methods, variants and fields, by type.
    members: HashMap<String, HashSet<String>>,
}

/// The public items of all crates.
pub(super) struct Items {
    crates: HashMap<String, Crate>,
    /// What the facade exports at its root.
    facade: HashSet<String>,
}

impl Items {
    pub(super) fn read(tree: &Tree) -> Items {
        let mut crates = HashMap::new();
        for folder in tree.crates() {
            let name = folder.trim_start_matches("crates/").trim_end_matches('/').to_owned();
            let one: &mut Crate = crates.entry(name).or_default();
            for file in tree.under(&format!("{folder}src/"), ".rs") {
                one.read(file);
                if file.path == format!("{folder}src/lib.rs") {
                    one.exported.extend(words_of_uses(&file.text));
                    one.items.extend(new_names(&file.text));
                }
            }
        }
        let facade = tree.get(FACADE).map(|file| words_of_uses(&file.text).collect()).unwrap_or_default();
        Items { crates, facade }
    }

    /// Whether a path below the facade's root is there: `Process::spawn`, `spawn!`, `channel::net::Listener::bind`.
    pub(super) fn has(&self, path: &str) -> bool {
        let parts: Vec<&str> = path.split("::").collect();
        let Some(one) = self.crates.get(parts[0]).filter(|_| parts.len() > 1) else {
            return self.facade.contains(parts[0].trim_end_matches('!'))
                && self.crates.values().any(|one| one.has(&parts));
        };
        // What a crate exports may come from another one.
        let exported = one.exported.contains(parts[1].trim_end_matches('!'));
        one.has(&parts[1..]) || (exported && self.crates.values().any(|one| one.has(&parts[1..])))
    }
}

impl Crate {
    fn read(&mut self, file: &File) {
        let mut block: Option<(usize, Vec<String>)> = None;
        let mut lines = file.text.lines().peekable();
        while let Some(line) = lines.next() {
            let code = line.split("//").next().unwrap_or_default();
            let (text, indent) = (code.trim(), code.len() - code.trim_start().len());
            if block.as_ref().is_some_and(|(outer, _)| indent <= *outer && text.starts_with('}')) {
                block = None;
            }
            if let Some((_, types)) = &block {
                for name in types {
                    self.members.entry(name.clone()).or_default().extend(member(text));
                }
                continue;
            }
            if text.starts_with("impl") {
                let mut header = text.to_owned();
                while !header.contains('{') && lines.peek().is_some() {
                    header = header + " " + lines.next().unwrap_or_default().trim();
                }
                if !header.contains('}') {
                    block = Some((indent, self_type(&header, &file.text)));
                }
            } else if let Some((kind, name)) = item(text) {
                self.items.insert(name.clone());
                if matches!(kind, "struct" | "enum" | "trait" | "union") && !text.ends_with(['}', ';']) {
                    block = Some((indent, vec![name]));
                }
            }
        }
    }

    /// Modules first, then an item, then perhaps a member of it. Modules are taken on trust of their names.
    fn has(&self, path: &[&str]) -> bool {
        match path {
            [] => false,
            [item] => self.items.contains(*item),
            [name, member] if self.members.get(*name).is_some_and(|all| all.contains(*member)) => true,
            [module, rest @ ..] => {
                let is_module = module.starts_with(char::is_lowercase) && self.items.contains(*module);
                is_module && self.has(rest)
            }
        }
    }
}

/// The words of all `pub use` and `pub mod` lines.
fn words_of_uses(text: &str) -> impl Iterator<Item = String> {
    let uses = ["pub use ", "pub mod "].into_iter().flat_map(|start| text.split(start).skip(1));
    let words = uses.filter_map(|rest| rest.split(';').next()).flat_map(|list| list.split(not_in_words));
    words.filter(|word| !word.is_empty()).map(str::to_owned)
}

/// What `pub use` gives another name: `cancel as cancel_exit_hook`.
fn new_names(text: &str) -> impl Iterator<Item = String> {
    let uses = text.split("pub use ").skip(1).filter_map(|rest| rest.split(';').next());
    uses.flat_map(|list| list.split(" as ").skip(1)).map(first_word)
}

fn not_in_words(c: char) -> bool {
    !c.is_alphanumeric() && c != '_'
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| !not_in_words(*c)).collect()
}

/// Kind and name of a public item that begins here. Macros are `name!`.
fn item(text: &str) -> Option<(&str, String)> {
    if let Some(rest) = text.strip_prefix("macro_rules! ") {
        return Some(("macro", first_word(rest) + "!"));
    }
    let rest = text.strip_prefix("pub ")?;
    let mut words = rest
        .split(' ')
        .skip_while(|word| matches!(*word, "unsafe" | "async") || (*word == "const" && rest.contains("fn ")));
    let kind = words.next()?;
    let known = ["fn", "struct", "enum", "trait", "type", "static", "const", "mod", "union"];
    known.contains(&kind).then(|| (kind, first_word(words.next().unwrap_or_default())))
}

/// The name that a line inside of a type, trait or `impl` declares: a method, a variant, a field.
fn member(text: &str) -> Option<String> {
    if let Some((_, rest)) = text.split_once("fn ") {
        return Some(first_word(rest));
    }
    let field = text.strip_prefix("pub ").unwrap_or(text);
    let named = field.starts_with(char::is_uppercase) || (field != text && field.contains(':'));
    named.then(|| first_word(field.strip_prefix("const ").unwrap_or(field)))
}

/// The types that an `impl` is for. In a macro that makes it for several, all those that the file has.
fn self_type(header: &str, file: &str) -> Vec<String> {
    let header = header.split('{').next().unwrap_or_default().split(" where ").next().unwrap_or_default();
    let mut depth = 0_i32;
    // What stands in angle brackets, and the arrow of a function type, says nothing here.
    let flat: String = header
        .replace("->", "")
        .chars()
        .filter(|c| {
            depth += i32::from(*c == '<') - i32::from(*c == '>');
            depth == 0 && *c != '>'
        })
        .collect();
    let name = flat.trim_start_matches("impl").trim();
    let name = name.split(" for ").last().unwrap_or_default().trim().trim_start_matches('&');
    if name.starts_with('$') {
        return file.lines().filter_map(|line| Some(item(line.trim())?.1)).collect();
    }
    vec![name.rsplit("::").next().map(first_word).unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    #[test]
    fn what_is_public_is_found_and_nothing_else() {
        let a = "pub mod net;\npub use hooks::{later, old as renamed};\nmacro_rules! go {\n}\npub struct Pool {\n    inner: u8,\n}\n\
                 impl<T: Fn() -> u8> Pool<T> {\n    pub fn map(&self) {}\n}\npub enum Kind {\n    One,\n}\n\
                 pub struct Death {\n    pub pid: u32,\n}";
        let net = "pub struct End;\nimpl End {\n    pub const fn bind() {}\n}\nmacro_rules! m {\n    () => {\n        \
                   impl $t {\n            pub fn made() {}\n        }\n    }\n}";
        let items = Items::read(&tree(&[
            ("crates/a/Cargo.toml", ""),
            ("crates/a/src/lib.rs", a),
            ("crates/a/src/net.rs", net),
            ("crates/b/Cargo.toml", ""),
            ("crates/b/src/lib.rs", "pub fn later() {}"),
            (FACADE, "pub use procession_a as a;\npub use procession_a::{Pool, go};"),
        ]));
        for there in [
            "Pool",
            "Pool::map",
            "go!",
            "a::Kind::One",
            "a::Death::pid",
            "a::net::End::bind",
            "a::net::End::made",
            "a::later",
            "a::renamed",
            "a::net",
        ] {
            assert!(items.has(there), "{there}");
        }
        for missing in
            ["Kind", "Pool::fold", "Pool::inner", "a::Pool::inner", "a::Kind::Two", "a::far::End", "go", "c"]
        {
            assert!(!items.has(missing), "{missing}");
        }
    }
}
