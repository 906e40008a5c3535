"""The schema of the values, and what is made from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from helm import generate
from tests.helm.chart import CHART, chart

SCHEMA = generate.load_schema()


def _walk(schema: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of a value, references put in."""
    schema = generate.resolved(schema, SCHEMA)
    yield path, schema
    for key, below in schema.get("properties", {}).items():
        yield from _walk(below, f"{path}.{key}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _walk(schema[key], f"{path}.*")


def test_it_takes_no_unknown_keys() -> None:
    for path, schema in _walk(SCHEMA, ""):
        if "object" in schema.get("type", ()):
            closed = schema.get("additionalProperties") is False
            by_name = isinstance(schema.get("additionalProperties"), dict)
            # Kubernetes' and Dask's own structures: they check those themselves.
            open_for_a_reason = bool(schema.get("x-open"))
            assert closed + by_name + open_for_a_reason == 1, path


def test_everything_is_described_and_has_a_type() -> None:
    for path, schema in _walk(SCHEMA, ""):
        assert schema.get("type") or schema.get("enum"), path
        if path.endswith(".pools.*"):
            continue  # described as poolDefaults
        assert schema.get("description", "").endswith((".", ",", "...", "}.")), path


def test_it_is_of_draft_2020_12() -> None:
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_values_and_readme_are_made_from_it() -> None:
    for path, text in generate.generated().items():
        assert path.read_text() == text, "run: python helm/generate.py"
    assert generate.main(["--check"]) == 0


def test_the_defaults_are_those_of_the_values() -> None:
    def check(values: Any, schema: dict[str, Any], path: str) -> None:
        for key, below in generate.properties(schema, SCHEMA):
            if generate.is_section(below):
                check(values[key], below, f"{path}.{key}")
            else:
                # Helm leaves out what is null.
                assert values.get(key) == below["default"], f"{path}.{key}"

    check(chart().values, SCHEMA, "")
    chart().validate_schema({})


def test_a_stale_file_is_noticed(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("values.yaml", "values.schema.json", "README.md"):
        (tmp_path / name).write_text((CHART / name).read_text())
    monkeypatch.setattr(generate, "CHART", tmp_path)
    values = tmp_path / "values.yaml"
    values.write_text(values.read_text().replace("replicas: 2", "replicas: 3"))
    assert generate.main(["--check"]) == 1
    assert "values.yaml is not up to date" in capsys.readouterr().out
    assert generate.main([]) == 0
    assert values.read_text() == (CHART / "values.yaml").read_text()
