"""``python -m qarm.report.picture REPORT.html OUT.svg``: some plots of a report as one picture.

For pages that cannot show HTML, such as a README. The plots are copied from the report, each below
its caption.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from qarm.errors import InputError, guarded
from qarm.lake import files

#: Beginnings of the captions of the plots that are shown, in order.
SHOWN = (
    "Events",
    "Share of test pairs",
    "Held-out training pairs",
    "Gain over base",
)
_COLUMNS = 2
_WIDTH, _HEIGHT, _CAPTION, _MARGIN = 480, 290, 24, 16
_INK = "#0b0c0d"
_FIGURE = re.compile(r"<figure>(<svg.*?</svg>)\s*<figcaption>(.*?)</figcaption></figure>", re.S)
_FONT = 'font-family="system-ui, sans-serif" fill="#0b0c0d"'


def plots_of(html: str) -> list[tuple[str, str]]:
    """(caption, ``<svg>`` element) of all plots of a report, in its order."""
    return [(caption, image) for image, caption in _FIGURE.findall(html)]


def picture(html: str, captions: Sequence[str] = SHOWN) -> str:
    """An SVG file with the first plot whose caption starts with each of ``captions``, two per row.

    Raises:
        InputError: the report has none of these plots.
    """
    plots = plots_of(html)
    chosen = []
    for start in captions:
        chosen += [plot for plot in plots if plot[0].startswith(start)][:1]
    if not chosen:
        raise InputError(f"the report has none of the plots {list(captions)}; run all stages first")
    cells = []
    for number, (caption, image) in enumerate(chosen):
        row, column = divmod(number, _COLUMNS)
        x, y = _MARGIN + column * (_WIDTH + _MARGIN), _MARGIN + row * (_HEIGHT + _MARGIN)
        # The ids of clip paths are only unique within a plot.
        own = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>p{number}-", image)
        place = f'x="{x}" y="{y + _CAPTION}" width="{_WIDTH}" height="{_HEIGHT - _CAPTION}"'
        cells += [
            f'<text x="{x}" y="{y + 14}" font-size="13" {_FONT}>{caption}</text>',
            own.replace("<svg", f'<svg {place} color="{_INK}"', 1),
        ]
    width = _MARGIN + min(len(chosen), _COLUMNS) * (_WIDTH + _MARGIN)
    height = _MARGIN + -(-len(chosen) // _COLUMNS) * (_HEIGHT + _MARGIN)
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *cells, "</svg>\n"])


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m qarm.report.picture",
        description="Some plots of a report as one SVG file, for pages that cannot show HTML.",
    )
    parser.add_argument("report", metavar="REPORT.html", help="URI of the report")
    parser.add_argument("to", metavar="OUT.svg", help="URI of the picture")
    arguments = parser.parse_args(argv)

    def write() -> None:
        if not files.exists(arguments.report):
            raise InputError(f"no report at {arguments.report}; `qarm report` writes it")
        files.write_text(arguments.to, picture(files.read_text(arguments.report)))

    return guarded(write)


if __name__ == "__main__":
    sys.exit(main())
