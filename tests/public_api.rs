//! Holds the public API against `docs/public-api.txt`, so that a change to it shows in the commit.
//!
//! `UPDATE=1 cargo test --all-features --test public_api` writes the file anew. What is compared
//! comes from rustdoc, as JSON: one line for each type, field, variant, function and
//! implementation, with all features. Left out is what the compiler adds by itself, and what is
//! hidden in the documentation.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "tests end where something is wrong"
)]

use std::{collections::BTreeSet, env, fs, path::Path, process::Command};

use serde_json::Value;

/// The version of rustdoc's JSON that is understood here. Another compiler may write another.
const FORMAT: u64 = 57;
const SNAPSHOT: &str = "docs/public-api.txt";
const RENEW: &str = "UPDATE=1 cargo test --all-features --test public_api";

#[test]
fn the_public_api_is_the_one_of_the_snapshot() {
    let crate_json = document();
    let format = crate_json["format_version"].as_u64();
    if format != Some(FORMAT) {
        println!("NOT JUDGED: rustdoc writes JSON of format {format:?}, read is {FORMAT}");
        return;
    }
    let found = Api::of(&crate_json);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(SNAPSHOT);
    if env::var_os("UPDATE").is_some() {
        let text: String = found.iter().flat_map(|line| [line, "\n"]).collect();
        fs::write(path, text).unwrap();
        return;
    }
    let text = fs::read_to_string(path).unwrap_or_default();
    let kept: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    let gone = kept.difference(&found).map(|line| format!("- {line}"));
    let new = found.difference(&kept).map(|line| format!("+ {line}"));
    let changes: Vec<String> = gone.chain(new).collect();
    assert!(
        changes.is_empty(),
        "the public API is not that of {SNAPSHOT}; if it is meant to be, `{RENEW}`:\n{}",
        changes.join("\n")
    );
}

/// What rustdoc knows of the library. Its JSON is not stable, hence the variable. A build folder of
/// its own keeps the variable from building everything else anew.
fn document() -> Value {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("public-api");
    let output = Command::new(env!("CARGO"))
        .args(["rustdoc", "--lib", "--all-features", "--target-dir"])
        .arg(&folder)
        .args(["--", "-Z", "unstable-options", "--output-format", "json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTDOCFLAGS")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo rustdoc: {log}");
    let text = fs::read_to_string(folder.join("doc/nebnet.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Walks the modules as a user of the crate sees them.
struct Api<'a> {
    index: &'a Value,
    paths: &'a Value,
    lines: BTreeSet<String>,
}

impl<'a> Api<'a> {
    fn of(crate_json: &'a Value) -> BTreeSet<String> {
        let mut api = Self {
            index: &crate_json["index"],
            paths: &crate_json["paths"],
            lines: BTreeSet::new(),
        };
        api.module(api.item(&crate_json["root"]), "");
        // Implementations are found here and not at their types: some are for types of others.
        for item in api.index.as_object().unwrap().values() {
            let imp = &item["inner"]["impl"];
            if imp.is_object() && item["crate_id"] == 0 && !imp["trait"].is_null() {
                api.trait_impl(imp);
            }
        }
        api.lines
    }

    fn item(&self, id: &Value) -> &'a Value {
        &self.index[id.to_string()]
    }

    fn module(&mut self, module: &'a Value, path: &str) {
        for id in list(&module["inner"]["module"]["items"]) {
            let item = self.item(id);
            let import = &item["inner"]["use"];
            if import.is_null() {
                self.exported(item, name(item), path);
            } else if import["is_glob"] == true {
                self.module(self.item(&import["id"]), path);
            } else {
                let target = self.item(&import["id"]);
                let text = import["name"].as_str().unwrap();
                if target.is_null() {
                    let source = import["source"].as_str().unwrap();
                    self.lines.insert(format!("{path}{text} = {source}"));
                } else {
                    self.exported(target, text, path);
                }
            }
        }
    }

    fn exported(&mut self, item: &'a Value, name: &str, path: &str) {
        let full = format!("{path}{name}");
        let (kind, inner) = item["inner"].as_object().unwrap().iter().next().unwrap();
        let generics = self.generics(&inner["generics"]);
        let bounds = self.bounds_where(&inner["generics"]);
        let mark = marks(item);
        match kind.as_str() {
            "module" => return self.module(item, &format!("{full}::")),
            "use" => unreachable!("an import is resolved"),
            "struct" => {
                let open = self.fields(&inner["kind"], &full);
                let line = format!("{full}: struct{generics}{open}{bounds}{mark}");
                self.lines.insert(line);
            }
            "enum" => {
                let line = format!("{full}: enum{generics}{bounds}{mark}");
                self.lines.insert(line);
                for id in list(&inner["variants"]) {
                    self.variant(self.item(id), &full);
                }
            }
            "trait" => {
                let supers = self.bounds(&inner["bounds"]);
                let line = format!("{full}: trait{generics} {supers}{bounds}");
                self.lines.insert(line.trim_end().to_owned());
                for id in list(&inner["items"]) {
                    self.member(self.item(id), &full);
                }
            }
            _ => self.member(item, path.trim_end_matches("::")),
        }
        for id in list(&inner["impls"]) {
            let imp = &self.item(id)["inner"]["impl"];
            if imp["trait"].is_null() {
                for id in list(&imp["items"]) {
                    self.member(self.item(id), &full);
                }
            }
        }
    }

    /// Lines of the fields that can be named; the text that stands behind `struct`.
    fn fields(&mut self, kind: &'a Value, full: &str) -> String {
        let plain = &kind["plain"];
        let Some(tuple) = kind["tuple"].as_array() else {
            for id in list(&plain["fields"]) {
                let field = self.item(id);
                let ty = self.ty(&field["inner"]["struct_field"]);
                self.lines.insert(format!("{full}.{}: {ty}", name(field)));
            }
            let is_private = plain["has_stripped_fields"] == true;
            return if is_private { " { .. }" } else { "" }.to_owned();
        };
        self.tuple_fields(tuple)
    }

    fn tuple_fields(&self, ids: &[Value]) -> String {
        let one = |id: &Value| match id.is_null() {
            true => "_".to_owned(),
            false => self.ty(&self.item(id)["inner"]["struct_field"]),
        };
        format!("({})", joined(ids.iter().map(one)))
    }

    fn variant(&mut self, variant: &'a Value, full: &str) {
        let kind = &variant["inner"]["variant"]["kind"];
        let mut text = String::new();
        if let Some(ids) = kind["tuple"].as_array() {
            text = self.tuple_fields(ids);
        } else if kind["struct"].is_object() {
            let fields = list(&kind["struct"]["fields"]).iter().map(|id| {
                let field = self.item(id);
                format!(
                    "{}: {}",
                    name(field),
                    self.ty(&field["inner"]["struct_field"])
                )
            });
            text = format!(" {{ {} }}", joined(fields));
        }
        let (name, mark) = (name(variant), marks(variant));
        self.lines.insert(format!("{full}::{name}{text}{mark}"));
    }

    /// A function, constant or associated type of a type, a trait or a module.
    fn member(&mut self, item: &Value, owner: &str) {
        let full = match owner {
            "" => name(item).to_owned(),
            _ => format!("{owner}::{}", name(item)),
        };
        let (kind, inner) = item["inner"].as_object().unwrap().iter().next().unwrap();
        let line = match kind.as_str() {
            "function" => self.function(inner, &full, &marks(item)),
            "constant" => format!("const {full}: {}", self.ty(&inner["type"])),
            "assoc_const" => format!("const {full}: {}", self.ty(&inner["type"])),
            "assoc_type" if inner["type"].is_null() => {
                format!("type {full}: {}", self.bounds(&inner["bounds"]))
            }
            "assoc_type" | "type_alias" => format!("type {full} = {}", self.ty(&inner["type"])),
            _ => format!("{full}: {kind}"),
        };
        self.lines.insert(line);
    }

    fn function(&self, inner: &Value, full: &str, mark: &str) -> String {
        let mut words = String::new();
        for word in ["const", "async", "unsafe"] {
            if inner["header"][format!("is_{word}")] == true {
                words += word;
                words += " ";
            }
        }
        let inputs = list(&inner["sig"]["inputs"]).iter().map(|pair| {
            let (name, ty) = (pair[0].as_str().unwrap(), self.ty(&pair[1]));
            match (name, ty.ends_with("Self")) {
                ("self", true) => ty.replace("Self", "self"),
                _ => format!("{name}: {ty}"),
            }
        });
        let inputs = joined(inputs);
        let output = self.output(&inner["sig"]["output"]);
        let generics = self.generics(&inner["generics"]);
        let bounds = self.bounds_where(&inner["generics"]);
        format!("{words}fn {full}{generics}({inputs}){output}{bounds}{mark}")
    }

    /// Not those that the compiler adds: of these the ones that matter are shown where missing.
    fn trait_impl(&mut self, imp: &Value) {
        let is_negative = imp["is_negative"] == true;
        let the_trait = self.path(&imp["trait"]);
        let matters = is_negative && ["Send", "Sync", "Unpin"].contains(&the_trait.as_str());
        let is_added = imp["is_synthetic"] == true && !matters;
        if is_added || !imp["blanket_impl"].is_null() || the_trait.starts_with("Structural") {
            return;
        }
        let generics = self.generics(&imp["generics"]);
        let not = if is_negative { "!" } else { "" };
        let (ty, bounds) = (self.ty(&imp["for"]), self.bounds_where(&imp["generics"]));
        let types = list(&imp["items"]).iter().filter_map(|id| {
            let item = self.item(id);
            let ty = &item["inner"]["assoc_type"]["type"];
            (!ty.is_null()).then(|| format!("{} = {}", name(item), self.ty(ty)))
        });
        let types = joined(types);
        let types = match types.as_str() {
            "" => types,
            _ => format!(" {{ {types} }}"),
        };
        let line = format!("impl{generics} {not}{the_trait} for {ty}{bounds}{types}");
        self.lines.insert(line);
    }

    // ----- types ---------------------------------------------------------------------------------

    fn ty(&self, ty: &Value) -> String {
        let Some((kind, inner)) = ty.as_object().and_then(|map| map.iter().next()) else {
            return "_".to_owned();
        };
        match kind.as_str() {
            "primitive" | "generic" => inner.as_str().unwrap().to_owned(),
            "resolved_path" => self.path(inner),
            "tuple" => format!("({})", joined(list(inner).iter().map(|one| self.ty(one)))),
            "slice" => format!("[{}]", self.ty(inner)),
            "array" => {
                let len = inner["len"].as_str().unwrap();
                format!("[{}; {len}]", self.ty(&inner["type"]))
            }
            "borrowed_ref" => {
                let lifetime = inner["lifetime"].as_str();
                let lifetime = lifetime.map(|name| format!("{name} "));
                let lifetime = lifetime.unwrap_or_default();
                let word = if inner["is_mutable"] == true {
                    "mut "
                } else {
                    ""
                };
                format!("&{lifetime}{word}{}", self.ty(&inner["type"]))
            }
            "impl_trait" => format!("impl {}", self.bounds(inner)),
            "dyn_trait" => {
                let traits = list(&inner["traits"]).iter().map(|one| self.bound(one));
                let mut all: Vec<String> = traits.collect();
                all.extend(inner["lifetime"].as_str().map(str::to_owned));
                format!("dyn {}", all.join(" + "))
            }
            "qualified_path" => {
                format!(
                    "{}::{}",
                    self.ty(&inner["self_type"]),
                    inner["name"].as_str().unwrap()
                )
            }
            "function_pointer" => {
                let inputs = list(&inner["sig"]["inputs"]).iter();
                let inputs = joined(inputs.map(|pair| self.ty(&pair[1])));
                format!("fn({inputs}){}", self.output(&inner["sig"]["output"]))
            }
            // What this crate has not needed so far is shown as it comes.
            _ => ty.to_string(),
        }
    }

    /// Our own types by their names, others with as much in front as tells them apart.
    fn path(&self, path: &Value) -> String {
        let text = path["path"].as_str().unwrap();
        let last = text.rsplit("::").next().unwrap();
        let summary = &self.paths[path["id"].to_string()];
        let full = list(&summary["path"]);
        let part = |at: usize| full.get(at).and_then(Value::as_str).unwrap_or_default();
        let front = match part(0) {
            _ if summary["crate_id"] == 0 => "",
            "core" | "std" | "alloc" => match part(1) {
                module @ ("fmt" | "io") => module,
                _ => "",
            },
            other => other,
        };
        let front = if front.is_empty() {
            String::new()
        } else {
            format!("{front}::")
        };
        format!("{front}{last}{}", self.args(&path["args"]))
    }

    fn args(&self, args: &Value) -> String {
        let bracketed = &args["angle_bracketed"];
        if let Some(args) = args["parenthesized"].as_object() {
            let inputs = joined(list(&args["inputs"]).iter().map(|one| self.ty(one)));
            return format!("({inputs}){}", self.output(&args["output"]));
        }
        let args = list(&bracketed["args"]).iter().map(|arg| {
            let plain = arg["lifetime"]
                .as_str()
                .or_else(|| arg["const"]["expr"].as_str());
            plain.map_or_else(|| self.ty(&arg["type"]), str::to_owned)
        });
        let constraints = list(&bracketed["constraints"]).iter().map(|one| {
            let (name, equal) = (
                one["name"].as_str().unwrap(),
                &one["binding"]["equality"]["type"],
            );
            match equal.is_null() {
                true => format!("{name}: {}", self.bounds(&one["binding"]["constraint"])),
                false => format!("{name} = {}", self.ty(equal)),
            }
        });
        let all = joined(args.chain(constraints));
        match all.as_str() {
            "" => all,
            _ => format!("<{all}>"),
        }
    }

    fn output(&self, output: &Value) -> String {
        match output.is_null() {
            true => String::new(),
            false => format!(" -> {}", self.ty(output)),
        }
    }

    fn bound(&self, bound: &Value) -> String {
        let polarity = match bound["modifier"].as_str() {
            Some("maybe") => "?",
            _ => "",
        };
        format!("{polarity}{}", self.path(&bound["trait"]))
    }

    fn bounds(&self, bounds: &Value) -> String {
        let all = list(bounds).iter().map(|one| {
            let lifetime = one["outlives"].as_str().map(str::to_owned);
            lifetime.unwrap_or_else(|| self.bound(&one["trait_bound"]))
        });
        all.collect::<Vec<_>>().join(" + ")
    }

    fn with_bounds(&self, name: &str, bounds: &Value) -> String {
        match self.bounds(bounds).as_str() {
            "" => name.to_owned(),
            text => format!("{name}: {text}"),
        }
    }

    /// The parameters between angle brackets; those of `impl Trait` stand where they are used.
    fn generics(&self, generics: &Value) -> String {
        let params = list(&generics["params"]).iter();
        let params = params.filter(|one| one["kind"]["type"]["is_synthetic"] != true);
        let all = joined(params.map(|one| {
            let kind = &one["kind"];
            match kind["const"]["type"].is_null() {
                true => self.with_bounds(name(one), &kind["type"]["bounds"]),
                false => format!("const {}: {}", name(one), self.ty(&kind["const"]["type"])),
            }
        }));
        match all.as_str() {
            "" => all,
            _ => format!("<{all}>"),
        }
    }

    fn bounds_where(&self, generics: &Value) -> String {
        let predicates = list(&generics["where_predicates"]).iter();
        let all = joined(predicates.map(|one| {
            let bound = &one["bound_predicate"];
            match bound.is_null() {
                true => one.to_string(),
                false => self.with_bounds(&self.ty(&bound["type"]), &bound["bounds"]),
            }
        }));
        match all.as_str() {
            "" => all,
            _ => format!(" where {all}"),
        }
    }
}

/// Attributes that are part of the contract.
fn marks(item: &Value) -> String {
    let text = item["attrs"].to_string();
    let known = ["non_exhaustive", "must_use"];
    let found = known.iter().filter(|one| text.contains(**one));
    found.map(|one| format!(" #[{one}]")).collect()
}

fn name(item: &Value) -> &str {
    item["name"].as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn joined(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join(", ")
}
