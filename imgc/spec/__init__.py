"""The spec language: YAML files to validated :class:`~imgc.spec.model.Platform` objects."""

from imgc.spec.load import PlatformFile, find, load, load_all
from imgc.spec.model import Base, Disk, Initramfs, Output, Platform
from imgc.spec.reference import json_schema, reference_markdown, with_reference

__all__ = [
    "Base",
    "Disk",
    "Initramfs",
    "Output",
    "Platform",
    "PlatformFile",
    "find",
    "json_schema",
    "load",
    "load_all",
    "reference_markdown",
    "with_reference",
]
