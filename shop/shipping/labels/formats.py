"""The formats of labels."""

from __future__ import annotations

from enum import StrEnum


class LabelFormat(StrEnum):
    """A format; also the suffix of its files."""

    PDF = "pdf"
    ZPL = "zpl"
    """For label printers: ZPL II."""

    @property
    def media_type(self) -> str:
        return f"application/{self}"
