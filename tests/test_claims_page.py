"""The page of claims says what the JSON files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo import claims, registry

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "results" / "claims", ROOT / "docs" / "claims.md"

if not RESULTS.is_dir():
    pytest.skip("needs the source checkout", allow_module_level=True)


def test_the_page_is_generated_from_the_results() -> None:
    assert PAGE.read_text(encoding="utf-8") == claims.report_text(RESULTS), (
        "run: zoo reproduce --all --report docs/claims.md"
    )


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_result_is_complete_and_of_an_installed_claim(path: Path) -> None:
    result = claims.load_result(path)
    assert result.complete
    assert not result.quick
    assert len(result.results) >= 5
    assert registry.info(result.model).claim is not None
    assert result.to_dict()["verdict"] in ("supported", "not supported", "inconclusive")
