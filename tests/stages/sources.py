"""A log and a catalogue with every fault in them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

LOG = """\
user,item,event,ms,click,bought,fold
u1,a,show,1700000000000,1,0,tr
u1,b,show,1700000001000,0,0,tr
u1,b,show,1700000001000,0,0,tr
u1,c,show,1700000002000,1,1,va
u2,a,show,1700000003000,0,0,tr
u2,a,show,1700000003000,1,0,tr
u2,c,show,1700000004000,1,0,te
,c,show,1700000004000,1,0,te
u3,,show,1700000004000,1,0,te
u3,a,show,yesterday,1,0,te
u3,a,show,4000000000000,1,0,te
u3,zz,show,1700000005000,1,0,te
u3,a,junk,1700000005000,1,0,te
u3,007,show,1700000006000,0,,te
"""


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 10, 10)).save(out, "JPEG")
    return out.getvalue()


def make_sources(tmp_path: Path) -> dict[str, Any]:
    """A labelled CSV of impressions with a split of its own; JSON lines with image paths."""
    pictures = tmp_path / "my pictures"
    pictures.mkdir(parents=True)
    (pictures / "a.jpg").write_bytes(jpeg())
    (pictures / "b.jpg").write_bytes(jpeg()[:200])
    lines = [
        {
            "id": "a",
            "name": "Red lamp",
            "about": ["glass", "tall"],
            "kind": "home; light",
            "price": 3.5,
            "picture": "my pictures/a.jpg",
            "sound": [0.5, 1.0],
        },
        {
            "id": "b",
            "name": "Blue lamp.",
            "about": ["wood"],
            "kind": "home",
            "price": None,
            "picture": "my pictures/b.jpg",
            "sound": [0.25, "NaN"],
        },
        {"id": "c", "name": " ", "kind": "", "price": 99, "picture": "my pictures/none.jpg"},
        {"id": "007", "name": "Spy kit", "price": 1},
        {"id": "a", "name": "Red lamp again"},
        {"id": None, "name": "nobody"},
    ]
    items = write(tmp_path / "items.jsonl", "\n".join(json.dumps(row) for row in lines))
    return {
        "log": {
            "path": [write(tmp_path / "log.csv", LOG)],
            "user": "user",
            "item": "item",
            "event": "event",
            "time": "ms",
            "time_format": "epoch_ms",
            "rows": "event = 'show'",
            "labels": {"positive": "click = 1", "bought": "bought = 1"},
            "split": "fold",
            "as_of": "2024-01-01T00:00:00",
        },
        "items": {
            "path": [items],
            "id": "id",
            "title": "name",
            "text": ["name", "about"],
            "attributes": {"kind": "kind"},
            "attribute_separator": {"kind": ";"},
            "numeric_attributes": {"price": [1, 2, 5]},
            "image": "picture",
            "audio": "sound",
        },
        "split": {
            "kind": "column",
            "column_values": {"tr": "train", "va": "valid", "te": "test"},
        },
    }
