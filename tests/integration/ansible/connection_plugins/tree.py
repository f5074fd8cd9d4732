"""A way for Ansible into a root file system that lies in a directory: a chroot, without a network."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: tree
short_description: A root file system in a directory, without a network
description: Runs what it is given in a chroot of the directory that is the host's name.
options:
  remote_addr:
    description: The directory.
    default: inventory_hostname
    vars:
      - name: inventory_hostname
"""


class Connection(ConnectionBase):  # type: ignore[misc]
    """One tree.  /proc and /dev are those that lie there."""

    transport = "tree"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def close(self) -> None:
        self._connected = False

    @property
    def _root(self) -> str:
        return str(self.get_option("remote_addr"))

    def exec_command(self, cmd: str, in_data: Any = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        root = self._root
        enter = (
            f'mount -t proc proc {root}/proc && mount --bind /dev {root}/dev && exec chroot {root} sh -c "$1"'
        )
        words = [
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            enter,
            "sh",
            cmd,
        ]
        done = subprocess.run(words, input=in_data, capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        target = Path(self._root + out_path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(in_path, target)

    def fetch_file(self, in_path: str, out_path: str) -> None:
        shutil.copyfile(self._root + in_path, out_path)
