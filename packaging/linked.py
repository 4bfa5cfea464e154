"""Lists what is linked into the program: as CycloneDX, and with the texts of all licences.

Reads the output of `cargo metadata` for one target on standard input. What only builds or tests need is left out.
"""

import argparse
import html
import json
import pathlib
import re
import sys
import uuid

NAMES = ("licen", "copying", "copyright", "notice", "unlicense")


def linked(metadata):
    """Returns the packages that are linked, the program first."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    edges, waiting = {}, [root]
    while waiting:
        package = waiting.pop()
        if package in edges:
            continue
        normal = [
            dep["pkg"]
            for dep in nodes[package]["deps"]
            if any(kind["kind"] is None for kind in dep["dep_kinds"])
        ]
        # Procedural macros run in the compiler.
        edges[package] = sorted(
            dep for dep in normal if "proc-macro" not in str([t["kind"] for t in packages[dep]["targets"]])
        )
        waiting += edges[package]
    return root, packages, edges


def reference(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


# Crates whose manifests name a file in place of a licence, after a look at that file.
UNNAMED = {"webpki": "ISC"}


def licence(package):
    """Returns the licence of a package as an expression of SPDX."""
    named = package["license"] or UNNAMED.get(package["name"])
    if not named:
        sys.exit(f"linked.py: {package['name']} names no licence: look at its files, and add it to UNNAMED")
    # Old manifests write "MIT/Apache-2.0".
    return named.replace("/", " OR ")


def component(package, checksums):
    found = {
        "type": "library",
        "bom-ref": reference(package),
        "name": package["name"],
        "version": package["version"],
        "purl": reference(package),
        "licenses": [{"expression": licence(package)}],
    }
    if package.get("description"):
        found["description"] = " ".join(package["description"].split())
    checksum = checksums.get((package["name"], package["version"]))
    if checksum:
        found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return found


def cyclonedx(root, packages, edges, commit):
    checksums = {}
    for entry in pathlib.Path("Cargo.lock").read_text().split("[[package]]"):
        values = dict(line.split(" = ", 1) for line in entry.splitlines() if " = " in line)
        if "checksum" in values:
            key = (values["name"].strip('"'), values["version"].strip('"'))
            checksums[key] = values["checksum"].strip('"')
    order = sorted((package for package in edges if package != root), key=lambda p: reference(packages[p]))
    program = component(packages[root], {})
    program["type"] = "application"
    program["properties"] = [{"name": "commit", "value": commit}]
    components = [component(packages[package], checksums) for package in order]
    components.append(
        {
            "type": "library",
            "bom-ref": "sqlite",
            "name": "sqlite",
            "version": sqlite_version(packages),
            "description": "SQLite's C library, bundled with libsqlite3-sys",
            "licenses": [{"expression": "blessing"}],
        }
    )
    depends = [
        {"ref": reference(packages[package]), "dependsOn": [reference(packages[dep]) for dep in edges[package]]}
        for package in [root, *order]
    ]
    for entry in depends:
        if entry["ref"].startswith("pkg:cargo/libsqlite3-sys@"):
            entry["dependsOn"].append("sqlite")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, 'glance-cache ' + commit)}",
        "version": 1,
        "metadata": {"component": program},
        "components": components,
        "dependencies": depends,
    }


def sqlite_version(packages):
    for package in packages.values():
        if package["name"] == "libsqlite3-sys":
            header = pathlib.Path(package["manifest_path"]).parent / "sqlite3" / "sqlite3.h"
            for line in header.read_text().splitlines():
                if line.startswith("#define SQLITE_VERSION "):
                    return line.split('"')[1]
    sys.exit("linked.py: libsqlite3-sys does not say which SQLite it bundles")


def texts(directory):
    """Returns the texts of the licences in a directory, by the names of their files."""
    found = {}
    for path in sorted(directory.iterdir()):
        if path.is_file() and path.name.lower().startswith(NAMES):
            found[path.name] = path.read_text(errors="replace").strip()
        elif path.is_dir() and path.name.lower() in ("licenses", "license", "licences"):
            found |= {f"{path.name}/{name}": text for name, text in whole(path).items()}
    return found


def whole(directory):
    return {p.name: p.read_text(errors="replace").strip() for p in sorted(directory.iterdir()) if p.is_file()}


def common(zig, sysroot):
    """Returns what comes with the compiler and the linker: name, licence, texts."""
    # The licences of the standard library and of what it contains.
    page = (pathlib.Path(sysroot) / "share/doc/rust/COPYRIGHT-library.html").read_text()
    page = re.sub(r"<(style|title).*?</\1>|<(?!https?:)[^<>]*>", "", page, flags=re.DOTALL)
    rust = {"COPYRIGHT": re.sub(r"\n\s*\n\s*", "\n\n", html.unescape(page)).strip()}
    libraries = next(pathlib.Path(zig).glob("lib/python*/site-packages/ziglang"))
    return [
        ("The Rust standard library", "MIT OR Apache-2.0", rust),
        ("LLVM's libunwind and compiler-rt, as zig links them", "Apache-2.0 WITH LLVM-exception AND MIT",
            texts(libraries) | {"libunwind": texts(libraries / "lib/libunwind").get("LICENSE.TXT", "")}),
    ]


def licences(root, packages, edges, others):
    lines = [
        "glance-cache is under the Apache License 2.0. These parts are linked into it; each is named with its licence,",
        "and the texts follow.",
        "",
    ]
    by_text = {}
    for package in sorted(edges, key=lambda p: reference(packages[p])):
        if package == root:
            continue
        package = packages[package]
        name = f"{package['name']} {package['version']}"
        lines.append(f"* {name}: {licence(package)}")
        for text in texts(pathlib.Path(package["manifest_path"]).parent).values():
            by_text.setdefault(text, []).append(name)
    lines.append("* SQLite: in the public domain")
    for name, terms, found in others:
        lines.append(f"* {name}: {terms}")
        for text in filter(None, found.values()):
            by_text.setdefault(text, []).append(name)
    for text, names in sorted(by_text.items(), key=lambda item: item[1][0]):
        lines += ["", "-" * 100, *names, "-" * 100, "", text]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    for name in ("commit", "zig", "sysroot", "cyclonedx", "licences"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    root, packages, edges = linked(json.load(sys.stdin))
    bom = json.dumps(cyclonedx(root, packages, edges, args.commit), indent=1, ensure_ascii=False)
    pathlib.Path(args.cyclonedx).write_text(bom + "\n")
    pathlib.Path(args.licences).write_text(licences(root, packages, edges, common(args.zig, args.sysroot)))


main()
