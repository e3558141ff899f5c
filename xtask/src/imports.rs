//! Imports inside the crate `tcptrace`: in, its sources; out, every import of a higher layer, and every circle of files.
//!
//! Modules for tests are left out: they may use anything. A `pub use` is followed to the file that defines the name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::repo::Repo;

/// The top-level modules, the lowest layer first. A module may import those of lower layers.
const LAYERS: [&[&str]; 14] = [
    &["http", "note", "output_file", "privileges"],
    &["sandbox"],
    &["model"],
    &["filter"],
    &["lifecycle"],
    &["aggregate", "join"],
    &["kernel", "session", "synthetic"],
    &["source"],
    &["pipeline"],
    &["replay"],
    &["selftest"],
    &["view"],
    &["cli"],
    // The crate itself.
    &[""],
];

/// Names from the crate's root to a module, and further to an item.
type NamePath = Vec<String>;

/// The imports of one file.
#[derive(Debug, Default)]
struct SourceFile {
    /// Modules that it declares, except for tests.
    children: Vec<String>,
    /// Its `use` paths as written, each with the name that it gives to the file; `pub use` apart.
    uses: Vec<(String, NamePath)>,
    reexports: Vec<(String, NamePath)>,
    /// Paths elsewhere in its code, and every name.
    paths: Vec<NamePath>,
    names: BTreeSet<String>,
}

/// Fails with every import that is not allowed.
pub fn check(repo: &Repo) -> Result<()> {
    let mut files = BTreeMap::new();
    load(&repo.root.join("tcptrace/src/lib.rs"), &[], &mut files)?;
    let found = faults(&files);
    ensure!(found.is_empty(), "{found}");
    Ok(())
}

/// Reads a file and those of the modules that it declares.
fn load(path: &Path, module: &[String], files: &mut BTreeMap<NamePath, SourceFile>) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let file = SourceFile::parse(&text).with_context(|| path.display().to_string())?;
    let folder = path.parent().context("a file has a folder")?;
    let is_root = path.ends_with("lib.rs") || path.ends_with("mod.rs");
    let folder = if is_root { folder.to_owned() } else { path.with_extension("") };
    for child in &file.children {
        let beside = folder.join(format!("{child}.rs"));
        let path = if beside.exists() { beside } else { folder.join(child).join("mod.rs") };
        load(&path, &[module, std::slice::from_ref(child)].concat(), files)?;
    }
    files.insert(module.to_vec(), file);
    Ok(())
}

impl SourceFile {
    fn parse(text: &str) -> Result<Self> {
        let tokens: TokenStream = text.parse().map_err(|error| anyhow!("{error}"))?;
        let mut file = Self::default();
        file.read(tokens);
        Ok(file)
    }

    fn read(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut rest = tokens.as_slice();
        let mut is_public = false;
        while let [first, after @ ..] = rest {
            rest = after;
            match first {
                // `#[cfg(test)]`: the item that follows.
                TokenTree::Punct(mark) if mark.as_char() == '#' => {
                    let [TokenTree::Group(attribute), after @ ..] = rest else { continue };
                    rest = after;
                    if attribute.stream().to_string().replace(' ', "") == "cfg(test)" {
                        let end = rest.iter().position(|token| is_mark(token, ';') || is_block(token));
                        rest = &rest[end.map_or(rest.len(), |end| end + 1)..];
                    }
                }
                TokenTree::Ident(name) if name == "pub" => {
                    is_public = true;
                    // `pub(in path)` imports nothing.
                    if let [TokenTree::Group(scope), after @ ..] = rest
                        && scope.delimiter() == Delimiter::Parenthesis
                    {
                        rest = after;
                    }
                    continue;
                }
                TokenTree::Ident(name) if name == "mod" => {
                    if let [TokenTree::Ident(child), end, ..] = rest
                        && is_mark(end, ';')
                    {
                        self.children.push(child.to_string());
                    }
                }
                TokenTree::Ident(name) if name == "use" => {
                    let end = rest.iter().position(|token| is_mark(token, ';')).unwrap_or(rest.len());
                    let uses = if is_public { &mut self.reexports } else { &mut self.uses };
                    read_use(&rest[..end], &[], uses);
                    rest = &rest[end..];
                }
                TokenTree::Ident(name) => {
                    let mut path = vec![name.to_string()];
                    while let [a, b, TokenTree::Ident(next), after @ ..] = rest
                        && is_mark(a, ':')
                        && is_mark(b, ':')
                    {
                        path.push(next.to_string());
                        rest = after;
                    }
                    self.names.extend(path.iter().cloned());
                    if path.len() > 1 {
                        self.paths.push(path);
                    }
                }
                TokenTree::Group(group) => self.read(group.stream()),
                _ => {}
            }
            is_public = false;
        }
    }
}

fn is_mark(token: &TokenTree, mark: char) -> bool {
    matches!(token, TokenTree::Punct(found) if found.as_char() == mark)
}

fn is_block(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
}

/// Adds every path of a tree of `use`, and the name that it gets.
fn read_use(tree: &[TokenTree], before: &[String], out: &mut Vec<(String, NamePath)>) {
    for branch in tree.split(|token| is_mark(token, ',')).filter(|branch| !branch.is_empty()) {
        let mut path = before.to_vec();
        let mut alias = None;
        let mut tokens = branch.iter();
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Ident(name) if name == "as" => alias = tokens.next().map(ToString::to_string),
                // `a::{self, b}`.
                TokenTree::Ident(name) if name == "self" && !path.is_empty() => {}
                TokenTree::Ident(name) => path.push(name.to_string()),
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    read_use(&inner, &path, out);
                    path.clear();
                }
                _ => {}
            }
        }
        if let Some(last) = path.last() {
            out.push((alias.unwrap_or_else(|| last.clone()), path));
        }
    }
}

/// One line per fault.
fn faults(files: &BTreeMap<NamePath, SourceFile>) -> String {
    let mut found = String::new();
    let mut imports: BTreeMap<&NamePath, BTreeSet<&NamePath>> = BTreeMap::new();
    for (module, file) in files {
        let own = layer(module);
        let uses = file.uses.iter().chain(&file.reexports).map(|(_, path)| path);
        let mut above = BTreeSet::new();
        for path in uses.chain(&file.paths).filter_map(|path| absolute(files, module, path)) {
            if path.first() != module.first() && files.contains_key(&path[..1]) && layer(&path) >= own {
                above.insert(path.join("::"));
            }
        }
        for path in above {
            let _ = writeln!(found, "{} imports {path}, which is not in a lower layer", module.join("::"));
        }
        if own.is_none() {
            let _ = writeln!(found, "{} has no layer", module.join("::"));
        }
        let reexported =
            file.reexports.iter().filter(|(name, _)| file.names.contains(name)).map(|(_, path)| path);
        let paths = file.uses.iter().map(|(_, path)| path).chain(&file.paths).chain(reexported);
        let targets = paths.filter_map(|path| definition(files, absolute(files, module, path)?));
        // `lib.rs` defines only macros, which every module sees.
        imports.insert(module, targets.filter(|target| !target.is_empty() && *target != module).collect());
    }
    let reached: BTreeMap<_, _> = imports.keys().map(|&from| (from, reachable(from, &imports))).collect();
    let mut known: BTreeSet<&NamePath> = BTreeSet::new();
    for (&module, all) in &reached {
        if all.contains(module) && !known.contains(module) {
            let circle: Vec<_> =
                all.iter().copied().filter(|other| reached[other].contains(module)).collect();
            let names: Vec<_> = circle.iter().map(|module| module.join("::")).collect();
            let _ = writeln!(found, "files import each other in a circle: {}", names.join(", "));
            known.extend(circle);
        }
    }
    found
}

/// Position of a module's layer; `None` for one that is not in the table.
fn layer(module: &[String]) -> Option<usize> {
    let top = module.first().map_or("", String::as_str);
    LAYERS.iter().position(|layer| layer.contains(&top))
}

/// A path from the root; `None` for one that leads out of the crate, or names something in the file itself.
fn absolute(files: &BTreeMap<NamePath, SourceFile>, module: &[String], path: &[String]) -> Option<NamePath> {
    let (first, rest) = path.split_first()?;
    let parents = path.iter().take_while(|name| *name == "super").count();
    let found = match first.as_str() {
        "crate" => rest.to_vec(),
        "self" => [module, rest].concat(),
        "super" => [module.get(..module.len() - parents)?, &path[parents..]].concat(),
        _ if files[module].children.contains(first) => [module, path].concat(),
        _ => {
            let (_, imported) =
                files[module].uses.iter().find(|(name, used)| name == first && used != path)?;
            let imported = absolute(files, module, imported)?;
            [imported.as_slice(), rest].concat()
        }
    };
    (!found.is_empty()).then_some(found)
}

/// The file that defines the item of a path from the root.
fn definition(files: &BTreeMap<NamePath, SourceFile>, path: NamePath) -> Option<&NamePath> {
    /// More re-exports of a re-export than anyone writes.
    const STEPS: usize = 8;
    let mut path = path;
    for _ in 0..STEPS {
        let depth = (0..=path.len()).rev().find(|&depth| files.contains_key(&path[..depth]))?;
        let (module, file) = files.get_key_value(&path[..depth])?;
        let name = path.get(depth);
        let Some((_, shown)) = name.and_then(|name| file.reexports.iter().find(|(shown, _)| shown == name))
        else {
            return Some(module);
        };
        path = [absolute(files, module, shown)?.as_slice(), &path[depth + 1..]].concat();
    }
    None
}

/// Every file that `from` imports, and that those import; `from` itself if it is in a circle.
fn reachable<'a>(
    from: &'a NamePath,
    imports: &BTreeMap<&'a NamePath, BTreeSet<&'a NamePath>>,
) -> BTreeSet<&'a NamePath> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        let new = imports.get(module).into_iter().flatten().filter(|next| reached.insert(**next));
        open.extend(new);
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The faults of files, each as its path and its text.
    fn of(sources: &[(&str, &str)]) -> String {
        let mut files = BTreeMap::from([(vec![], SourceFile::default())]);
        for (module, text) in sources {
            let module: NamePath = module.split("::").map(str::to_owned).collect();
            let (name, parent) = module.split_last().expect("a name");
            files.get_mut(parent).expect("a parent").children.push(name.clone());
            files.insert(module.clone(), SourceFile::parse(text).expect("source text"));
        }
        faults(&files)
    }

    #[test]
    fn the_crate_obeys() {
        check(&Repo::find().expect("a checkout")).expect("imports that point down");
    }

    #[test]
    fn imports_point_down() {
        let model = ("model", "pub struct Nanos;");
        assert_eq!(of(&[model, ("view", "use crate::model::Nanos;")]), "");
        for text in [
            "use crate::cli::run;",
            "pub use super::{cli::{self, run}, view};",
            "fn f() { if a { crate::cli::run() } }",
            "macro_rules! m { () => { $crate::cli::run() } }",
        ] {
            let found = of(&[model, ("cli", ""), ("view", text)]);
            assert!(found.starts_with("view imports cli"), "{text}: {found}");
        }
        assert!(of(&[("kernel", ""), ("session", "use crate::kernel;")]).contains("session imports kernel"));
        assert!(of(&[("unknown", "")]).contains("unknown has no layer"));
    }

    #[test]
    fn tests_comments_and_texts_import_nothing() {
        let text = "//! [`crate::cli::run`]\npub(in crate::cli) const A: &str = \"crate::cli::run\";
            #[cfg(test)] use crate::cli::run;
            #[cfg(test)] #[path = \"t.rs\"] mod tests { use crate::cli::run; }";
        assert_eq!(of(&[("cli", ""), ("view", text)]), "");
    }

    #[test]
    fn circles_are_found_through_reexports() {
        let parent = ("filter", "pub use a::A; pub use b::B;");
        assert_eq!(of(&[parent, ("filter::a", "use super::B;"), ("filter::b", "pub struct B;")]), "");
        let found = of(&[parent, ("filter::a", "use super::B;"), ("filter::b", "fn f() -> super::A {}")]);
        assert_eq!(found, "files import each other in a circle: filter::a, filter::b\n");
        let used = ("filter", "pub use a::A; fn f(a: A) {}");
        assert!(of(&[used, ("filter::a", "use super::f;")]).contains("filter, filter::a"));
        let named = ("filter::a", "use super::b; fn f() { b::run() }");
        assert!(
            of(&[("filter", ""), named, ("filter::b", "use crate::filter::a::f;")])
                .contains("filter::a, filter::b")
        );
    }
}
