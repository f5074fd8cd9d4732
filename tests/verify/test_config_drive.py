"""The config drive, read back by other programs than the one that wrote it."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pycdlib
import pytest

from imgc import process
from imgc.verify import network
from imgc.verify.config_drive import LABEL, ConfigDrive, write

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJx1 imgc"


@pytest.fixture
def drive() -> ConfigDrive:
    return ConfigDrive("node-1.example", KEY, network.parse("10.0.2.77/24"))


def contents(path: Path, form: str, name: str) -> Any:
    """The JSON file ``name`` of an ISO, by its Rock Ridge (``rr_path``) or Joliet (``joliet_path``) name."""
    iso = pycdlib.PyCdlib()
    iso.open(str(path))
    try:
        found = io.BytesIO()
        iso.get_file_from_iso_fp(found, **{form: f"/openstack/latest/{name}"})
        return json.loads(found.getvalue())
    finally:
        iso.close()


@pytest.mark.parametrize("form", ["rr_path", "joliet_path"])
def test_names_and_key(drive: ConfigDrive, tmp_path: Path, form: str) -> None:
    write(drive, tmp_path / "drive.iso")
    meta = contents(tmp_path / "drive.iso", form, "meta_data.json")
    assert meta["name"] == meta["hostname"] == "node-1.example"
    assert meta["public_keys"] == {"imgc": KEY}
    assert meta["uuid"].count("-") == 4


@pytest.mark.parametrize("form", ["rr_path", "joliet_path"])
def test_one_card_with_a_static_address(drive: ConfigDrive, tmp_path: Path, form: str) -> None:
    write(drive, tmp_path / "drive.iso")
    data = contents(tmp_path / "drive.iso", form, "network_data.json")
    (link,), (net,) = data["links"], data["networks"]
    assert (link["type"], link["ethernet_mac_address"]) == ("phy", network.MAC)
    assert (net["type"], net["link"]) == ("ipv4", link["id"])
    assert (net["ip_address"], net["netmask"]) == ("10.0.2.77", "255.255.255.0")
    assert net["routes"] == [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.0.2.2"}]
    assert data["services"] == [{"type": "dns", "address": "10.0.2.3"}]


def test_guests_find_the_drive_by_its_label(drive: ConfigDrive, tmp_path: Path) -> None:
    write(drive, tmp_path / "drive.iso")
    probed = process.run(["blkid", "-p", "-o", "export", str(tmp_path / "drive.iso")]).output.splitlines()
    assert f"LABEL={LABEL}" in probed
    assert "TYPE=iso9660" in probed


def test_equal_contents_give_equal_bytes_at_any_time_in_any_zone(
    drive: ConfigDrive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(drive, tmp_path / "one.iso")
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        time.sleep(1.1)
        write(drive, tmp_path / "two.iso")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert (tmp_path / "one.iso").read_bytes() == (tmp_path / "two.iso").read_bytes()


def test_another_key_gives_another_instance(drive: ConfigDrive) -> None:
    other = ConfigDrive(drive.hostname, KEY.replace("Jx1", "Jx2"), drive.network)
    assert other.meta_data()["uuid"] != drive.meta_data()["uuid"]
    assert os.path.commonpath(list(drive.files())) == "openstack/latest"
