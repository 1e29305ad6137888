#!/usr/bin/env python3
"""Includes point down only: server -> model -> cache -> kernels -> config. And each library has one keeper."""
import pathlib
import re
import sys

ORDER = ["config", "kernels", "cache", "model", "server"]
KEEPERS = {
    "microhttpd.h": ["server/http.c"],
    "gnutls/": ["server/tls.c"],
    "cjson/cJSON.h": ["config/json.c"],
    "pcre2.h": ["model/pretokenizer.c"],
    "utf8proc.h": ["model/"],
    "cblas.h": ["model/linalg.c"],
    "cuda": ["kernels/cuda/"],
    "immintrin.h": ["kernels/"],
}

root = pathlib.Path(__file__).resolve().parent.parent
faults = []
for folder in ORDER:
    for path in sorted((root / folder).rglob("*.[ch]*")):
        name = path.relative_to(root).as_posix()
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = re.match(r'\s*#\s*include\s*[<"]([^>"]+)[>"]', line)
            if not found:
                continue
            target = found.group(1)
            top = target.split("/")[0]
            if top in ORDER and ORDER.index(top) > ORDER.index(folder):
                faults.append(f"{name}:{number}: {folder}/ must not include {target}")
            for library, keepers in KEEPERS.items():
                if target.startswith(library) and not any(name.startswith(keeper) for keeper in keepers):
                    faults.append(f"{name}:{number}: only {', '.join(keepers)} may include {target}")
        lines = path.read_text().count("\n")
        if lines > 1000:
            faults.append(f"{name}: {lines} lines, at most 1000")
print("\n".join(faults) or "layers: clean")
sys.exit(bool(faults))
