"""Write the chart's values.yaml and the table in its README.md from values.schema.json.

``python helm/generate.py`` writes them; ``python helm/generate.py --check`` only says, by its exit
code, whether they are up to date. The schema is the one place where a value, its default and what
it means are written down.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "gc-bootstrap"
HEAD = "# Made from values.schema.json by helm/generate.py: edit the schema, then run that.\n"
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"

Schema = Mapping[str, Any]


def load_schema() -> dict[str, Any]:
    """The schema of the values."""
    schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return schema


def resolved(schema: Schema, root: Schema) -> dict[str, Any]:
    """A schema with its reference, if it has one, put in; its own keywords win."""
    reference = schema.get("$ref")
    if reference is None:
        return dict(schema)
    return {**root["$defs"][reference.rpartition("/")[2]], **schema}


def properties(schema: Schema, root: Schema) -> Iterator[tuple[str, dict[str, Any]]]:
    """The properties of an object with defaults of their own, resolved."""
    for key, below in schema["properties"].items():
        found = resolved(below, root)
        # What a chart has no default for is left out: only Helm and the options of a discovery.
        if "default" in found or "properties" in found:
            yield key, found


def is_section(schema: Schema) -> bool:
    """Whether the defaults are those of the properties."""
    return "properties" in schema and "default" not in schema


def values_yaml(schema: Schema, root: Schema, indent: str = "") -> Iterator[str]:
    """The lines of values.yaml."""
    for key, below in properties(schema, root):
        if not indent:
            yield ""
        width = 100 - len(indent)
        for line in textwrap.wrap(str(below["description"]), width - 2):
            yield f"{indent}# {line}"
        if is_section(below):
            yield f"{indent}{key}:"
            yield from values_yaml(below, root, indent + "  ")
        else:
            text = str(yaml.safe_dump({key: below["default"]}, sort_keys=False, width=width))
            yield from textwrap.indent(text.rstrip("\n"), indent).split("\n")


def type_of(schema: Schema) -> str:
    """A type as a person would write it."""
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value).strip(chr(34))}`" for value in schema["enum"])
    if "x-kubernetes" in schema:
        listed = schema["type"] == "array"
        return f"{'list of ' if listed else ''}{schema['x-kubernetes']}"
    names: list[str] = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    common = {"array": "list", "object": "map"}
    return " or ".join(common.get(name, name) for name in names)


def table(schema: Schema, root: Schema, prefix: str = "") -> Iterator[str]:
    """The rows of the README's table."""
    for key, below in properties(schema, root):
        text = below["description"].replace("|", "\\|")
        if is_section(below):
            yield f"| **`{prefix}{key}`** | | | {text} |"
            yield from table(below, root, f"{prefix}{key}.")
        else:
            default = json.dumps(below["default"])
            shown = f"`{default}`" if len(default) < 60 else "see values.yaml"
            yield f"| `{prefix}{key}` | {type_of(below)} | {shown} | {text} |"


def generated() -> dict[Path, str]:
    """What the files should contain."""
    schema = load_schema()
    readme = CHART / "README.md"
    rows = ["| value | type | default | meaning |", "|---|---|---|---|", *table(schema, schema)]
    text = re.sub(
        f"(?<={re.escape(BEGIN)}).*(?={re.escape(END)})",
        lambda _: "\n".join(rows) + "\n",
        readme.read_text(),
        flags=re.DOTALL,
    )
    values = HEAD + "\n".join(values_yaml(schema, schema)) + "\n"
    return {CHART / "values.yaml": values, readme: text}


def main(arguments: list[str]) -> int:
    """Write the files, or with ``--check`` only compare them."""
    stale = {path: text for path, text in generated().items() if path.read_text() != text}
    for path, text in stale.items():
        if "--check" in arguments:
            print(f"{path} is not up to date; run: python helm/generate.py")
        else:
            path.write_text(text)
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
