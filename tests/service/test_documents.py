"""What docs/serving.md says is what the service does."""

import re
from pathlib import Path

import yaml

from slicewise.service.problems import PROBLEMS
from slicewise.service.settings import ServiceSettings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def rows_of(section):
    text = TEXT.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [line for line in text.splitlines() if line.startswith("| `") and "urn:slicewise" not in line]


def test_every_problem_is_documented_and_no_other():
    assert rows_of("Errors") == [f"| `{name}` | {kind.status} | {kind.detail} |" for name, kind in PROBLEMS.items()]


def test_every_limit_is_documented_with_its_default(tmp_path):
    settings = ServiceSettings(model=tmp_path)
    units = {"MiB": 2**20, "GiB": 2**30}
    options = {"model", "host", "port", "keys", "state", "workers", "threads", "queue"}  # of `slicewise serve --help`
    documented = {row.split("`")[1] for row in rows_of("Limits")}
    assert documented | options == set(ServiceSettings.model_fields)
    for row in rows_of("Limits"):
        _, name, default, *_ = (cell.strip(" `") for cell in row.split("|"))
        number, _, unit = default.replace(",", "").partition(" ")
        assert getattr(settings, name) == float(number) * units.get(unit, 1), name


def test_every_path_is_documented(service):
    paths = service.client.get("/openapi.json").json()["paths"]
    assert len(paths) > 8
    for path in paths:
        named = path.replace("{study}", "ID").replace("{scan}", "SCAN").replace("{name}", "NAME")
        assert f" {named}`" in TEXT, path


def test_compose_starts_the_image_without_rights_and_on_loopback_alone():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    stages = re.findall(r"^FROM \S+ AS (\w+)$", dockerfile, re.MULTILINE)
    assert stages == ["base", "ui", "service"], "a plain build makes the last"
    assert services.keys() == {"service", "ui"}
    for name, service in services.items():
        assert service["build"] == {"context": ".", "target": name}
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
    for stage in re.split(r"^FROM ", dockerfile, flags=re.MULTILINE)[1:]:
        users = re.findall(r"^USER (\w+)$", stage, re.MULTILINE)
        assert (users or ["10001"])[-1] == "10001", stage
    assert not re.search(r"^RUN pip install (?:.|\\\n)*\btorch\b", dockerfile, re.MULTILINE)
