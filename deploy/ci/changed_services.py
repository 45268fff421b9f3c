#!/usr/bin/env python3
"""Which services a change touches, from the graph of crates and of the modules inside the two sides.

    deploy/ci/changed_services.py --base origin/main        # what HEAD changes since it left that branch
    deploy/ci/changed_services.py --deployed deployed       # in what HEAD differs from what runs
    git diff --name-only HEAD~1 | deploy/ci/changed_services.py -

Prints a JSON list of service names, in the order in which they are deployed; with --github-output also `services=...` and `any=true|false` for later
steps of a workflow. A file that the script does not know counts for every service: it may say too many, never too few.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

GATEWAY = "gateway"
# Services by the names of their modules in commands/ and projections/. Those of the fraud rules run in payments.
MODULES = {
    "users": "users",
    "orders": "orders",
    "payments": "payments",
    "fraud": "payments",
    "inventory": "inventory",
    "shipping": "shipping",
    "notifications": "notifications",
    "fulfilment": "fulfilment",
    "ops": "operations",
}
# Who reads comes before who records, so that nobody meets what he does not know yet: against the way that an order goes, from those
# who only listen to those who begin it. The gateway asks all of them, and comes last.
ORDER = ("notifications", "operations", "shipping", "payments", "inventory", "fulfilment", "orders", "users", GATEWAY)
SERVICES = frozenset(ORDER)

# Crates that are split by service inside.
SIDES = ("commands", "projections")
# What a service runs: `waybill` starts all of them, but none runs the code of the other kind.
RUNS = {service: {"waybill", *SIDES} for service in SERVICES} | {GATEWAY: {"waybill", GATEWAY}}
# Crates of which no service is built.
APART = ("tests", "rivals", "contracts")
# What every image is built from.
EVERYTHING = ("Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "Dockerfile", ".dockerignore", ".cargo/")
# Neither code nor part of an image.
NOTHING = re.compile(
    # Every service serves the document that is excepted.
    r"(docs/(?!asyncapi\.json$)|deploy/|nats/conf/|\.github/|\.ci/)|LICENSE-|[^/]*\.(md|conf)$|\.gitignore$|clippy\.toml$|rustfmt\.toml$"
    r"|deny\.toml$|docker-compose\.yml$|(\w+/)(tests|examples|benches)/|commands/golden/|[^/]+/README\.md$"
)


def crates():
    """Name, folder and imports of every crate of the workspace."""
    command = ["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"]
    packages = json.loads(subprocess.check_output(command, cwd=ROOT))["packages"]
    house = {package["name"] for package in packages}
    folder = lambda package: pathlib.Path(package["manifest_path"]).parent.relative_to(ROOT).as_posix()
    # What only tests import changes no service.
    imports = lambda package: {one["name"] for one in package["dependencies"] if one["kind"] != "dev"} & house
    return {package["name"]: (folder(package), imports(package)) for package in packages}


def reachable(start, edges):
    """Everything that can be reached, the start included."""
    seen, waiting = set(), list(start)
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting.extend(edges(one))
    return seen


def without_tests(text):
    """The text of a module without its tests, which stand at its end."""
    return text.split("#[cfg(test)]\nmod tests")[0]


def paths(text, root):
    """Every path that begins with `root::` in a text, groups in braces taken apart: tuples of names, without the root."""

    def tree(at, before):
        """Reads one tree of a `use` from `at`; what it names, and where it ends."""
        found = []
        if at < len(text) and text[at] == "{":
            at += 1
            while at < len(text) and text[at] != "}":
                inner, at = tree(at, before) if not text[at].isspace() and text[at] != "," else ([], at + 1)
                found += inner
            return found, at + 1
        word = re.compile(r"\w*").match(text, at)[0]
        at += len(word)
        if text.startswith("::", at):
            return tree(at + 2, (*before, word))
        return [(*before, word)], max(at, at + (not word))

    starts = re.finditer(rf"(?<![\w:]){root}::(?=[\w{{])", text)
    return [path for start in starts for path in tree(start.end(), ())[0]]


def executable():
    """The text of every file of the executable, which is the same for every service. Benchmarks run in none."""
    source = ROOT / "waybill/src"
    files = (file for file in source.rglob("*.rs") if file.relative_to(source).parts[0] not in ("bench", "bench.rs"))
    return [without_tests(file.read_text()) for file in files]


class Side:
    """The modules of one side, and which of their files the modules of other services rest on."""

    def __init__(self, name):
        source = ROOT / name / "src"
        self.files = {}
        for module in MODULES:
            for file in (source / f"{module}.rs", *(source / module).rglob("*.rs")):
                if file.is_file():
                    self.files[file.relative_to(ROOT).as_posix()] = (module, without_tests(file.read_text()))
        # Whole files that are tests are declared as such by the file above them.
        only_tests = "|".join(re.findall(r"#\[cfg\(test\)\]\nmod (\w+);", "".join(text for _, text in self.files.values())))
        self.files = {
            path: of for path, of in self.files.items() if not (only_tests and re.search(rf"/({only_tests})(\.rs$|/)", path))
        }

        # What the executable itself takes of a module, whichever service it runs.
        self.assembled = {file for text in executable() for file in self.taken(text, name)}

    def taken(self, text, root):
        """The files of this side that a text outside of it rests on."""
        wanted = [(first, rest if rest != ["self"] else []) for first, *rest in paths(text, root) if first in MODULES]
        # A module that is imported whole is named by itself from there on.
        wanted += [(first, rest) for first, inside in wanted if not inside for rest in paths(text, first)]
        return {file for module, names in wanted for name in names[-1:] for file in self.defining(module, name)}

    def defining(self, module, name):
        """The files of a module that define a name; all of them where none does."""
        item = re.compile(rf"\b(struct|enum|union|fn|const|static|type|trait|mod|macro_rules!)\s+{name}\b")
        of_module = [path for path, (owner, _) in self.files.items() if owner == module]
        return [path for path in of_module if item.search(self.files[path][1])] or of_module

    def imports(self, path):
        """The files that a file rests on, in its own module and in those of other services."""
        module, text = self.files[path]
        wanted = [(first, rest) for first, *rest in paths(text, "crate") if first in MODULES and first != module]
        wanted += [(module, rest) for rest in paths(text, "super")]
        return {file for owner, names in wanted for name in names[-1:] for file in self.defining(owner, name)}

    def services(self, path):
        """The services that a file is part of: its own, and those whose files rest on it."""
        module, _ = self.files[path]
        foreign = {
            file: {one for one in self.imports(file) if self.files[one][0] != owner}
            for file, (owner, _) in self.files.items()
        }
        if path in reachable(self.assembled, self.imports):
            return SERVICES - {GATEWAY}
        found = {MODULES[module]}
        for user, (owner, _) in self.files.items():
            if foreign[user] and path in reachable(foreign[user], self.imports):
                found.add(MODULES[owner])
        return found


def affected(path, house):
    """The services that one file is part of."""
    if any(path == one or (one.endswith("/") and path.startswith(one)) for one in EVERYTHING):
        return SERVICES
    if NOTHING.match(path) or path.split("/")[0] in APART:
        return frozenset()
    owners = [name for name, (folder, _) in house.items() if path.startswith(folder + "/")]
    if not owners:
        return SERVICES
    owner = owners[0]
    if owner in SIDES:
        side = Side(owner)
        if path in side.files:
            return side.services(path)
        # A file that is gone, or holds tests only, is part of its own service at the most.
        module = re.match(rf"{owner}/src/(\w+)", path)
        if module and module[1] in MODULES:
            return {MODULES[module[1]]}
    edges = lambda name: house[name][1]

    def runs(service):
        """The crates that a service runs: its own, and what these import."""
        own = RUNS[service]
        return reachable(own, lambda name: edges(name) - ({GATEWAY, *SIDES} - own))

    return frozenset(service for service in SERVICES if owner in runs(service))


def differing(*trees):
    """Names of the files that differ, those before a renaming included."""
    command = ["git", "diff", "--name-only", "--no-renames", *trees]
    return subprocess.check_output(command, cwd=ROOT, text=True).splitlines()


def changed(base, head):
    """What changed since the commit that both have in common. A tree, such as the empty one, has none: then all that differs."""
    kind = subprocess.run(["git", "cat-file", "-t", base], cwd=ROOT, text=True, capture_output=True).stdout.strip()
    return differing(base, head) if kind == "tree" else differing(f"{base}...{head}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="names of changed files; - reads them from standard input")
    parser.add_argument("--base", help="take the files that changed since this revision")
    parser.add_argument("--deployed", help="take the files that differ from this revision, in whatever order the two were made")
    parser.add_argument("--head", default="HEAD", help="up to this revision [default: HEAD]")
    parser.add_argument("--github-output", action="store_true", help="write to $GITHUB_OUTPUT too")
    arguments = parser.parse_args()
    files = arguments.files
    if arguments.base:
        files = changed(arguments.base, arguments.head)
    elif arguments.deployed:
        files = differing(arguments.deployed, arguments.head)
    elif files == ["-"]:
        files = [line.strip() for line in sys.stdin if line.strip()]
    elif not files:
        parser.error("name files, or say --base or --deployed")
    house = crates()
    services = sorted(set().union(*(affected(file, house) for file in files)), key=ORDER.index)
    print(json.dumps(services))
    if arguments.github_output:
        with open(os.environ["GITHUB_OUTPUT"], "a", encoding="utf-8") as output:
            output.write(f"services={json.dumps(services)}\nany={str(bool(services)).lower()}\n")


if __name__ == "__main__":
    main()
