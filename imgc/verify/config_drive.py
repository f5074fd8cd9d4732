"""The config drive: an ISO 9660 file in OpenStack's layout, as a cloud attaches it to a new server.

Only what a cloud always provides is in it: ``meta_data.json`` with the names and the SSH key, and
``network_data.json`` with one card and its static address.  Equal contents give equal bytes.
"""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgc.verify.network import Network

#: The volume label by which every guest agent looks for the drive.
LABEL = "config-2"

#: OpenStack's folder for the newest format; agents that read dated folders read this one too.
FOLDER = "openstack/latest"

_FILE_MODE = 0o100444
_DIRECTORY_MODE = 0o040555

#: 1 January 2000 as ISO 9660 directory records hold it: years since 1900, month, day, h, m, s, zone.
_DATE = (100, 1, 1, 0, 0, 0, 0)

#: Volume descriptors: their size, kinds, the same date as they hold it, and where (created, modified, effective).
_SECTOR = 2048
_PRIMARY, _SUPPLEMENTARY, _TERMINATOR = 1, 2, 255
_VOLUME_DATE = b"2000010100000000\0"
_VOLUME_DATES = (813, 830, 864)


@dataclass(frozen=True)
class ConfigDrive:
    """What the drive tells the guest.  ``public_key`` is one line as in ``authorized_keys``."""

    hostname: str
    public_key: str
    network: Network

    def meta_data(self) -> dict[str, object]:
        """OpenStack's ``meta_data.json``; the uuid follows from the contents."""
        return {
            "availability_zone": "imgc",
            "hostname": self.hostname,
            "keys": [{"data": self.public_key, "name": "imgc", "type": "ssh"}],
            "launch_index": 0,
            "name": self.hostname,
            "public_keys": {"imgc": self.public_key},
            "uuid": str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.hostname} {self.public_key}")),
        }

    def network_data(self) -> dict[str, object]:
        """OpenStack's ``network_data.json``: one physical link, one static IPv4 network, one resolver."""
        network = self.network
        resolver = {"address": str(network.resolver), "type": "dns"}
        return {
            "links": [
                {
                    "ethernet_mac_address": network.mac,
                    "id": "link0",
                    "mtu": 1500,
                    "type": "phy",
                    "vif_id": "vif0",
                }
            ],
            "networks": [
                {
                    "id": "network0",
                    "ip_address": str(network.address.ip),
                    "link": "link0",
                    "netmask": str(network.address.netmask),
                    "network_id": "imgc",
                    "routes": [{"gateway": str(network.gateway), "netmask": "0.0.0.0", "network": "0.0.0.0"}],
                    "services": [resolver],
                    "type": "ipv4",
                }
            ],
            "services": [resolver],
        }

    def files(self) -> dict[str, bytes]:
        """Every file of the drive, by its path."""
        contents = {"meta_data.json": self.meta_data(), "network_data.json": self.network_data()}
        return {
            f"{FOLDER}/{name}": json.dumps(content, indent=1, sort_keys=True).encode()
            for name, content in contents.items()
        }


def write(drive: ConfigDrive, path: Path) -> None:
    """Write ``drive`` to ``path`` as ISO 9660 with Rock Ridge and Joliet names."""
    import pycdlib

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, vol_ident=LABEL, joliet=3, rock_ridge="1.09")
    plain = {"": ""}
    for name, content in drive.files().items():
        *folders, last = name.split("/")
        parent = ""
        for folder in folders:
            here = f"{parent}/{folder}"
            if here not in plain:
                plain[here] = f"{plain[parent]}/{folder.upper()}"
                iso.add_directory(plain[here], rr_name=folder, joliet_path=here, file_mode=_DIRECTORY_MODE)
            parent = here
        short = last.upper().replace("JSON", "JSN")
        iso.add_fp(
            io.BytesIO(content),
            len(content),
            f"{plain[parent]}/{short};1",
            rr_name=last,
            joliet_path=f"{parent}/{last}",
            file_mode=_FILE_MODE,
        )
    _fix_record_dates(iso)
    image = io.BytesIO()
    try:
        iso.write_fp(image)
    finally:
        iso.close()
    path.write_bytes(_with_volume_dates(image.getvalue()))


def _fix_record_dates(iso: Any) -> None:
    """Replace the time of writing, which pycdlib puts into every file's record, by a constant."""
    from pycdlib.dates import DirectoryRecordDate

    date = DirectoryRecordDate.from_fields(*_DATE)
    for descriptor in (iso.pvd, iso.joliet_vd):
        for record in _records(descriptor.root_directory_record()):
            record.date = date
            if record.rock_ridge is None:
                continue
            for entries in (record.rock_ridge.dr_entries, record.rock_ridge.ce_entries):
                stamps = entries.tf_record if entries else None
                if stamps:
                    stamps.access_time = stamps.modification_time = stamps.attribute_change_time = date


def _with_volume_dates(image: bytes) -> bytes:
    """The same for the volume descriptors, which pycdlib dates only as it writes them (ECMA-119, 8.4)."""
    fixed = bytearray(image)
    for start in range(16 * _SECTOR, len(fixed), _SECTOR):
        kind = fixed[start]
        if kind in (_PRIMARY, _SUPPLEMENTARY):
            for offset in _VOLUME_DATES:
                fixed[start + offset : start + offset + len(_VOLUME_DATE)] = _VOLUME_DATE
        elif kind == _TERMINATOR:
            break
    return bytes(fixed)


def _records(directory: Any) -> Iterator[Any]:
    """A directory's record and all below it, with their entries for ``.`` and ``..``."""
    yield directory
    for child in directory.children:
        if child.is_dir() and not child.is_dot() and not child.is_dotdot():
            yield from _records(child)
        else:
            yield child
