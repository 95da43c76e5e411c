import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tiny_search import write_recipe, write_search_config

import search_net
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
        self.feed(path.read_text())

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

    def handle_data(self, data):
        self.text += data
        if self.tables and self.tables[-1] and self.tables[-1][-1]:
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
    search_net.main(args)
    return folder / "report" / "index.html"


@pytest.fixture(scope="session")
def procedure_page(tmp_path_factory):
    """Path of the page of a whole procedure."""
    recipe = write_recipe(tmp_path_factory.mktemp("report"))
    return run_search_net(recipe, recipe.parent / "out")


@pytest.fixture(scope="session")
def stage_config(tmp_path_factory):
    return write_search_config(tmp_path_factory.mktemp("stage"), "stage")


@pytest.fixture(scope="session")
def stage_page(stage_config):
    """Path of the page of a stage search with two budgets."""
    opts = ["SEARCH.BUDGETS", "[5, 6]"]
    return run_search_net(stage_config, stage_config.parent / "two budgets", *opts)


@pytest.fixture(scope="session")
def chromium():
    """Path of a browser."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    return path
