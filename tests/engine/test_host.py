"""What is taken over from the build host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imgc import certificates
from imgc.engine import host


def test_proxies_in_either_case(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in host.PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert host.proxies() == {}
    monkeypatch.setenv("http_proxy", "http://proxy.example:1")
    monkeypatch.setenv("NO_PROXY", "localhost")
    monkeypatch.setenv("ftp_proxy", "")
    assert host.proxies() == {"http_proxy": "http://proxy.example:1", "NO_PROXY": "localhost"}


def test_the_bundle_that_the_user_names_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in certificates.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(certificates, "BUNDLES", (str(tmp_path / "missing"), str(tmp_path / "system")))
    assert host.ca_bundle() == ""
    (tmp_path / "system").write_text("system")
    assert host.ca_bundle() == "system"
    (tmp_path / "mine").write_text("mine")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "mine"))
    assert host.ca_bundle() == "mine"
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere"))
    assert host.ca_bundle() == "mine", "a name that leads nowhere does not hide the others"


def test_root_needs_no_user_namespace() -> None:
    assert os.geteuid() == 0, "run the tests as root, as CI does"
    assert host.user_namespace() is None
