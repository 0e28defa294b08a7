//! Holds the house rules: imports between crates, sizes, headers, banned words, dead files,
//! change log.
//!
//! Reads the tree as text and runs nothing. A rule no test holds will drift, so a rule is added
//! here or it is not a rule. An exception is a line in a table below, with its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Longest function outside tests, in lines.
const FUNCTION_LINES_MAX: usize = 70;
/// Longest file without its `#[cfg(test)]` modules, in lines.
const FILE_LINES_MAX: usize = 500;
/// Widest line, in characters.
const COLUMNS_MAX: usize = 100;

/// Who may import whom (DESIGN §4). A crate of ours that is not listed may import none of ours.
const IMPORTS_ALLOWED: &[(&str, &[&str])] = &[
    ("media-core", &["livekit-contract"]),
    ("media-node", &["media-core", "media-api", "livekit-contract", "places"]),
    ("gateway", &["placement-api", "livekit-contract", "places"]),
    (
        "operator",
        &["operator-core", "hemicycle-crds", "hemicycle-proof", "media-api", "placement-api"],
    ),
    ("fuzz", &["hemicycle-proof", "livekit-contract", "media-api", "media-core"]),
    (
        "e2e",
        &[
            "gateway",
            "hemicycle-crds",
            "hemicycle-proof",
            "livekit-contract",
            "media-api",
            "media-core",
            "media-node",
            "operator",
            "operator-core",
            "placement-api",
        ],
    ),
];

/// Crates a given crate must never depend on, with the reason shown to who tries.
const IMPORTS_FORBIDDEN: &[(&str, &[&str], &str)] = &[
    ("media-node", &["kube", "k8s-openapi"], "a media node does not know Kubernetes"),
    ("gateway", &["kube", "k8s-openapi"], "the gateway does not know Kubernetes"),
    ("media-core", &["tokio", "socket2", "libc", "rand", "mio"], "a core does no I/O"),
    ("operator-core", &["tokio", "kube", "k8s-openapi", "rand", "tracing"], "a core does no I/O"),
    ("livekit-contract", &["tokio", "axum", "hyper"], "a contract does no I/O"),
    ("hemicycle-proof", &["tokio", "kube", "k8s-openapi", "rand"], "an auditor runs it offline"),
];

/// What a core's source may not say outside tests.
const CORE_WORDS_FORBIDDEN: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "std::thread",
    "std::env",
    "std::fs",
    "UdpSocket",
    "TcpStream",
    "thread_rng",
    "rand::rng",
];

/// The files of `proof/src` that are its program, not its library.
const PROOF_PROGRAM: &[&str] = &["main.rs", "files.rs"];

/// Words that must not reach main, and what to write instead.
const WORDS_BANNED: &[(&str, &str)] = &[
    (concat!("TO", "DO"), "an issue"),
    (concat!("FIX", "ME"), "an issue"),
    (concat!("todo", "!("), "the code, or leave the feature out"),
    (concat!("unimplemented", "!("), "the code, or leave the feature out"),
    (concat!("registry.npm", "js"), "nothing: name no registry host"),
    (concat!("index.crates", ".io"), "nothing: name no registry host"),
    (concat!("proxy.golang", ".org"), "nothing: name no registry host"),
    (concat!("files.python", "hosted"), "nothing: name no registry host"),
    (concat!("deb.debian", ".org"), "nothing: name no registry host"),
];

/// File names that say nothing about what is inside.
const FILE_NAMES_BANNED: &[&str] =
    &["utils", "util", "helpers", "helper", "common", "misc", "manager"];

/// Functions over the limit, with the reason.
const FUNCTIONS_EXCEPTED: &[(&str, &str, &str)] = &[];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e lies in the workspace").to_path_buf()
}

/// Every tracked or untracked, not ignored file, as paths relative to the root.
fn tree() -> Vec<PathBuf> {
    let listed = std::process::Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git is installed");
    assert!(listed.status.success(), "git ls-files failed: is this a checkout?");
    String::from_utf8(listed.stdout)
        .expect("paths are UTF-8")
        .lines()
        .map(PathBuf::from)
        .filter(|path| root().join(path).is_file())
        .collect()
}

fn rust_files() -> Vec<(PathBuf, String)> {
    tree()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ext| ext == "rs"))
        .map(|path| {
            let text = fs::read_to_string(root().join(&path)).expect("a listed file is readable");
            (path, text)
        })
        .collect()
}

fn is_test_file(path: &Path) -> bool {
    path.components().any(|part| {
        matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs" | "benches" | "fuzz"))
    })
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The lines with `#[cfg(test)]` items blanked. Relies on rustfmt: an item opened at an indent
/// closes with a brace at the same indent.
fn without_tests(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let mut kept = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        if lines[at].trim_start().starts_with("#[cfg(test)]") {
            let depth = indent(lines[at]);
            at += 1;
            while at < lines.len() && lines[at].trim_start().starts_with("#[") {
                at += 1;
            }
            if at < lines.len() && !lines[at].trim_end().ends_with(';') {
                let closes =
                    |line: &str| indent(line) == depth && line.trim_start().starts_with('}');
                while at < lines.len() && !closes(lines[at]) {
                    at += 1;
                }
            }
            at += 1;
            continue;
        }
        kept.push(lines[at]);
        at += 1;
    }
    kept
}

fn starts_function(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    for word in
        ["pub(crate) ", "pub(super) ", "pub ", "const ", "async ", "unsafe ", "extern \"C\" "]
    {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    let name = rest.strip_prefix("fn ")?;
    name.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// Name and length of every function with a body.
fn functions<'a>(lines: &[&'a str]) -> Vec<(&'a str, usize)> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = starts_function(line) else {
            continue;
        };
        let depth = indent(line);
        let end = lines[start..].iter().position(|later| {
            indent(later) == depth && (later.trim() == "}" || later.trim_end().ends_with(';'))
                || (std::ptr::eq(*later, *line) && later.trim_end().ends_with('}'))
        });
        if let Some(length) = end {
            found.push((name, length + 1));
        }
    }
    found
}

fn report(rule: &str, problems: &[String]) {
    assert!(problems.is_empty(), "{rule}:\n  {}", problems.join("\n  "));
}

/// `[dependencies]` of every crate of ours, by crate name (dev-dependencies are free).
fn manifests() -> BTreeMap<String, BTreeSet<String>> {
    let mut all = BTreeMap::new();
    for path in tree() {
        if path.file_name().is_none_or(|name| name != "Cargo.toml")
            || path.as_os_str() == "Cargo.toml"
        {
            continue;
        }
        let text = fs::read_to_string(root().join(&path)).expect("a manifest is readable");
        let (mut section, mut name, mut dependencies) = ("", String::new(), BTreeSet::new());
        for line in text.lines() {
            if line.starts_with('[') {
                section = line.trim();
            } else if section == "[package]" && line.starts_with("name = ") {
                name = line.trim_start_matches("name = ").trim_matches('"').to_owned();
            } else if section == "[dependencies]" && !line.trim_start().starts_with('#') {
                let key: String = line.chars().take_while(|c| !" .=".contains(*c)).collect();
                if !key.is_empty() {
                    dependencies.insert(key);
                }
            }
        }
        all.insert(name, dependencies);
    }
    all
}

#[test]
fn crates_import_only_what_the_design_allows() {
    let manifests = manifests();
    let ours: BTreeSet<&String> = manifests.keys().collect();
    let allowed: BTreeMap<&str, &[&str]> = IMPORTS_ALLOWED.iter().copied().collect();
    let mut problems = Vec::new();
    for (name, dependencies) in &manifests {
        let may = allowed.get(name.as_str()).copied().unwrap_or(&[]);
        for dependency in dependencies.iter().filter(|d| ours.contains(d)) {
            if !may.contains(&dependency.as_str()) {
                problems
                    .push(format!("{name} imports {dependency}, which DESIGN §4 does not allow"));
            }
        }
        for (crate_name, never, why) in IMPORTS_FORBIDDEN {
            for dependency in
                never.iter().filter(|d| name == crate_name && dependencies.contains(**d))
            {
                problems.push(format!("{name} depends on {dependency}: {why}"));
            }
        }
    }
    assert!(manifests.len() >= 10, "found only {} crates", manifests.len());
    report("import rules", &problems);
}

#[test]
fn cores_take_time_and_randomness_as_arguments() {
    let mut problems = Vec::new();
    for (path, text) in rust_files() {
        let core = path.starts_with("operator/core/src") || path.starts_with("media-node/core/src");
        // The program of the proof reads files and the clock for its library, which does neither.
        let proof =
            path.starts_with("proof/src") && !PROOF_PROGRAM.iter().any(|f| path.ends_with(f));
        if !(core || proof) || is_test_file(&path) {
            continue;
        }
        for line in without_tests(&text) {
            let code = line.split("//").next().unwrap_or_default();
            for word in CORE_WORDS_FORBIDDEN.iter().filter(|word| code.contains(**word)) {
                problems.push(format!("{}: `{word}` in a core: {}", path.display(), line.trim()));
            }
        }
    }
    report("a core is pure", &problems);
}

#[test]
fn files_and_functions_are_small() {
    let mut problems = Vec::new();
    for (path, text) in rust_files() {
        let shown = path.display();
        for (number, line) in text.lines().enumerate() {
            if line.chars().count() > COLUMNS_MAX {
                problems.push(format!("{shown}:{}: over {COLUMNS_MAX} columns", number + 1));
            }
        }
        if is_test_file(&path) {
            continue;
        }
        let lines = without_tests(&text);
        if lines.len() > FILE_LINES_MAX {
            problems.push(format!("{shown}: {} lines without tests", lines.len()));
        }
        for (name, length) in functions(&lines) {
            let excepted =
                FUNCTIONS_EXCEPTED.iter().any(|(file, f, _)| path == Path::new(file) && *f == name);
            if length > FUNCTION_LINES_MAX && !excepted {
                problems.push(format!("{shown}: fn {name} has {length} lines"));
            }
        }
    }
    report("sizes", &problems);
}

#[test]
fn every_file_says_what_it_is() {
    let problems: Vec<String> = rust_files()
        .into_iter()
        .filter(|(_, text)| !text.trim_start_matches("#!/usr/bin/env -S").starts_with("//!"))
        .map(|(path, _)| format!("{}: no `//!` header on the first line", path.display()))
        .collect();
    report("headers", &problems);
}

#[test]
fn banned_words_are_absent() {
    let text_kinds =
        ["rs", "toml", "md", "yaml", "yml", "json", "ts", "mjs", "js", "go", "py", "sh"];
    let mut problems = Vec::new();
    for path in tree() {
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        if path.extension().is_some_and(|e| e == "rs") && FILE_NAMES_BANNED.contains(&stem) {
            problems.push(format!("{}: the name says nothing", path.display()));
        }
        let kind = path.extension().and_then(|s| s.to_str()).unwrap_or("sh");
        if !text_kinds.contains(&kind) {
            continue;
        }
        let Ok(text) = fs::read_to_string(root().join(&path)) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            for (word, instead) in WORDS_BANNED.iter().filter(|(word, _)| line.contains(word)) {
                let at = format!("{}:{}", path.display(), number + 1);
                problems.push(format!("{at}: `{word}`; write {instead}"));
            }
        }
    }
    report("words", &problems);
}

#[test]
fn every_source_file_is_reachable() {
    let files: BTreeMap<PathBuf, String> = rust_files().into_iter().collect();
    let mut problems = Vec::new();
    for path in files.keys() {
        let (Some(parent), Some(stem)) = (path.parent(), path.file_stem().and_then(|s| s.to_str()))
        else {
            continue;
        };
        let in_src = path.components().any(|part| part.as_os_str() == "src");
        let is_root = matches!(stem, "lib" | "main") || parent.ends_with("bin");
        if !in_src || is_root {
            continue;
        }
        let (module, owner) = if stem == "mod" {
            let name = parent.file_name().and_then(|s| s.to_str()).unwrap_or_default();
            (name, parent.parent().unwrap_or(parent))
        } else {
            (stem, parent)
        };
        let declared = files.iter().any(|(candidate, text)| {
            let near = candidate.parent() == Some(owner) || candidate.with_extension("") == *owner;
            let named = [format!("mod {module};"), format!("mod r#{module};")];
            near && text.lines().any(|line| named.iter().any(|n| line.trim_end().ends_with(n)))
        });
        if !declared {
            problems.push(format!("{}: no `mod {module};` reaches it", path.display()));
        }
    }
    report("dead files", &problems);
}

#[test]
fn the_change_log_keeps_its_shape() {
    let text = fs::read_to_string(root().join("CHANGELOG.md")).expect("CHANGELOG.md exists");
    assert!(text.contains("## Unreleased"), "CHANGELOG.md has no `## Unreleased`");
    for line in text.lines().filter(|line| line.starts_with("### ")) {
        let section = line.trim_start_matches("### ");
        assert!(
            ["Added", "Changed", "Fixed", "Removed", "Security"].contains(&section),
            "CHANGELOG.md: unknown section `{section}`"
        );
    }
}

#[test]
fn the_readme_opens_with_its_two_commands() {
    let text = fs::read_to_string(root().join("README.md")).expect("README.md exists");
    let commands: Vec<&str> =
        text.lines().take(40).filter(|line| line.starts_with("    ./")).collect();
    assert_eq!(
        commands.len(),
        2,
        "the first 40 lines show exactly two commands, found {commands:?}"
    );
}

#[test]
fn the_rules_see_a_breach() {
    let long = format!("fn long() {{\n{}}}\n", "    step();\n".repeat(FUNCTION_LINES_MAX));
    let lines: Vec<&str> = long.lines().collect();
    assert_eq!(functions(&lines), [("long", FUNCTION_LINES_MAX + 2)]);
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n";
    assert_eq!(without_tests(text), ["fn a() {}", "fn c() {}"]);
    assert_eq!(starts_function("    pub(crate) async fn run(&self) {"), Some("run"));
}
