"""The mirror is the machine's own: every form of its configuration gives the same sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm import images, mirror
from tests.vm.mirror import Entry, NoMirror

KEYRING = "/usr/share/keyrings/some.gpg"
DEB822 = f"""# a comment
Types: deb deb-src
URIs: http://mirror.example/d
# another
Suites: bookworm bookworm-updates
Components: main
Signed-By: {KEYRING}

Types: deb
Enabled: no
URIs: http://off.example/d
Suites: bookworm

Types: deb
URIs: http://mirror.example/s
Suites: bookworm-security
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 AAAA
"""
LINES = f"""# deb http://off.example/d bookworm main
deb [arch=amd64 signed-by={KEYRING}] http://mirror.example/d bookworm main
deb-src http://off.example/d bookworm main
deb http://mirror.example/d bookworm-updates main
deb http://mirror.example/s bookworm-security main contrib
"""
EXPECTED = [
    Entry("http://mirror.example/d", "bookworm", f"signed-by={KEYRING}"),
    Entry("http://mirror.example/s", "bookworm-security", ""),
]


@pytest.mark.parametrize(("name", "text"), [("debian.sources", DEB822), ("debian.list", LINES)])
def test_both_forms_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / name).write_text(text)
    found = mirror.entries(tmp_path)
    assert [entry for entry in found if not entry.suite.endswith("updates")] == EXPECTED


def test_another_suite_of_the_same_mirror() -> None:
    assert mirror.lines_for("trixie", EXPECTED) == [
        f"deb [signed-by={KEYRING}] http://mirror.example/d trixie main",
        "deb http://mirror.example/s trixie-security main",
    ]
    assert len(mirror.lines_for("sid", EXPECTED)) == 1, "sid has no security suite"


def test_a_machine_without_a_mirror_is_told() -> None:
    other = [Entry("http://vendor.example/node", "nodistro", "")]
    with pytest.raises(NoMirror, match="names no Debian mirror"):
        mirror.lines_for("sid", other)


def test_the_lock_inside_has_all_that_the_daemons_and_the_tests_need() -> None:
    wanted = images.requirements()
    for project in ("cryptography", "uvloop", "msgspec", "pytest", "hypothesis", "pluggy"):
        assert f"\n{project}==" in f"\n{wanted}"
    assert "ruff==" not in wanted
    for line in wanted.splitlines():
        assert line.startswith("    --hash=sha256:") or "==" in line


def test_a_changed_lock_is_another_image() -> None:
    assert images.key("a", "b") != images.key("ab", "")
    assert images.key("a") == images.key(b"a")
