"""What the documents say is what the code does."""

from pathlib import Path

import pytest

from slicewise.audit.findings import RULES

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.mark.parametrize("name", RULES)
def test_every_rule_of_the_audit_is_documented(name):
    rule = RULES[name]
    row = f"| `{name}` | {rule.severity} | {rule.why} | {rule.remedy} |"
    assert row in (DOCS / "audit.md").read_text(encoding="utf-8").splitlines()
