"""Where the labels of external carriers are, and those that earlier versions drew. Needs nothing of the extra
`labels`."""

from __future__ import annotations

from pathlib import Path

from shop.orders.names import file_stems
from shop.runtime.files import has_exact_name, write_atomic


def label_path(label_dir: Path, order_id: str) -> Path:
    """Where the order's label is, or will be."""
    path, *before = label_paths(label_dir, order_id)
    return (
        next((each for each in before if has_exact_name(each)), path)
        if before and not path.exists()
        else path
    )


def label_paths(label_dir: Path, order_id: str) -> list[Path]:
    """Where it may be: also under the name of earlier versions."""
    return [label_dir / f"{name}.pdf" for name in file_stems(order_id)]


def write_label(path: Path, label: bytes) -> None:
    """Wholly or not at all; writing the same label again changes nothing."""
    write_atomic(path, label)
