"""Pages of searches: made, and read."""

from html.parser import HTMLParser
from pathlib import Path

from crnas_d2.commands import search as search_command

from detectron2.engine import default_argument_parser


class Page(HTMLParser):
    """What a page says.

    Attributes:
        tables: each one a list of rows, each one a list of texts.
        links: values of all attributes that make a browser load or go somewhere.
        ids: of its elements.
        text: all of it.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.tables, self.links, self.ids, self.text = [], [], [], ""
        self.in_cell = False
        self.feed(Path(path).read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes[key] for key in ("src", "href") if key in attributes]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.in_cell = False

    def handle_data(self, data):
        self.text += data
        if self.in_cell:
            self.tables[-1][-1][-1] = (self.tables[-1][-1][-1] + " " + data).strip()

    def table(self, column):
        """The rows of the first table that has a column, as dictionaries, and without its foot."""
        header, *rows = next(table for table in self.tables if column in table[0])
        return [dict(zip(header, row)) for row in rows if len(row) == len(header)]


def run_search_net(config, folder, *opts):
    """Run search_net.py in this process; returns the path of the page."""
    opts = ["OUTPUT_DIR", folder, *opts]
    args = default_argument_parser().parse_args(["--config-file", *map(str, [config, *opts])])
    args.eval_only = True
    search_command.search(args)
    return folder / "report" / "index.html"


def luminance(color):
    """Relative luminance as WCAG 2 defines it."""
    values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    dark, light = sorted(map(luminance, (first, second)))
    return (light + 0.05) / (dark + 0.05)
