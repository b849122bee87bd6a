"""The pages: what they show and name is there. `.ci/run` builds the site, and so checks the rest."""

import ast
import re
import shlex
import sys
import textwrap

import pages
import pytest
import tiny

import ddarts_jax
from ddarts_jax import configuration
from ddarts_jax.configuration.keys import TASKS
from ddarts_jax.distributed import processes

DOCS = tiny.ROOT / "docs"
sys.path.append(str(DOCS))
import reference_tables  # noqa: E402

PAGES = [
    *sorted(DOCS.rglob("*.md")),
    *(tiny.ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(tiny.ROOT)))


def commands(page):
    """The arguments of each command on a page, continued lines as one."""
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    found = re.findall(r"(?:ddarts-jax|python -m ddarts_jax\.main) ([^`\n]+)", text)
    return [shlex.split(arguments, comments=True) for arguments in found]


@each_page
def test_the_python_of_a_page_is_python(page):
    """A block has no error of syntax.

    Those of README.md and library.md run in test_api, of export.md in test_export, of start.md in
    `.ci/run`; that of article.md, which downloads, runs nowhere.
    """
    for block in pages.blocks(page):
        compile(textwrap.dedent(block), str(page), "exec")


def test_the_page_on_budgets_prints_the_cost_of_a_network(capsys):
    """DARTS_V2 with 20 cells and 36 channels has the article's 3.3 million parameters."""
    (block,) = pages.blocks(DOCS / "guides" / "budget.md")
    exec(block, {})
    assert re.search(r"params=33\d{5}\b", capsys.readouterr().out)


@each_page
def test_the_commands_of_a_page_are_accepted(page):
    """Each names a config that comes with the package, and keys and values that it allows."""
    for words in commands(page):
        if not words[0].startswith("--"):
            assert words in (["configs"], ["doctor"]), words
            continue
        _, words = processes.parse_flags(words)
        # The config of a run has the keys of any config of its task; NAME stands for any.
        like = "coco_retinanet" if "--config.task=detect_evaluate" in words else "digits"
        place = re.compile(r"^(--config=)?([\w/-]+/config\.json|NAME)$")
        words = [place.sub(rf"\1{like}", word) for word in words]
        # In the repository configs have paths too.
        words = [re.sub(r"^configs/(\w+)\.py$", r"\1", word) for word in words]
        configuration.parse_flags(["ddarts-jax", *words])


def test_commands_are_found():
    """The check above sees those of the start page, continued lines, tables and comments."""
    found = [" ".join(words) for page in PAGES for words in commands(page)]
    assert "--config digits --workdir runs/digits" in found
    assert any("--process_id=0" in line and "#" not in line for line in found)
    assert len(found) > 40


@each_page
def test_the_keys_that_a_page_names_exist(page):
    """A renamed key does not live on in a sentence."""
    keys = {key for task in TASKS for key in configuration.flatten(TASKS[task]())}
    groups = {key[: match.start()] for key in keys for match in re.finditer(r"\.", key)}
    text = page.read_text(encoding="utf-8")
    named = {*re.findall(r"--config\.([a-z][\w.]*)", text)}
    if page.name not in ("architecture.md", "contributing.md", "fidelity.md"):  # they name modules
        named |= {*re.findall(r"`((?:search|parse|train|checkpoint|evaluate)\.[\w.]+)`", text)}
    known = keys | groups | set(configuration.FORMER_NAMES)  # the list of changes has these
    assert {key.rstrip(".") for key in named} <= known


@each_page
def test_the_files_that_a_page_links_exist(page):
    """Pages, pictures and sources."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#:\s]+)[^)]*\)", text):
        # A badge, with an address relative to that of the repository on a forge.
        link = re.sub(
            r"^\.\./\.\./actions/(workflows/\w+\.yml)(/badge\.svg)?$", r".github/\1", link
        )
        assert (page.parent / link).is_file(), link


def test_the_errors_of_the_page_are_those_of_the_program():
    """Each heading of errors.md is the text of one message, with dots for what is filled in."""
    messages = []
    for path in (tiny.ROOT / "ddarts_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                constants = (getattr(part, "value", None) for part in node.values)
                messages.append("".join(c if isinstance(c, str) else "..." for c in constants))
    headings = re.findall(
        r"^## (.*)$", (DOCS / "errors.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    for heading in headings[:-1]:  # the last one is about what is no error
        pattern = ".*".join(re.escape(part.strip()) for part in heading.split("..."))
        assert any(re.search(pattern, message) for message in messages), heading


@pytest.mark.parametrize("task", reference_tables.CONFIGS.values())
def test_every_key_has_a_meaning(task):
    """A comment beside it or above it, which the page of all keys shows."""
    defaults = configuration.flatten(TASKS[task]())
    said = reference_tables.meanings(task)
    assert not [key for key in defaults if not said.get(key)]


def test_meanings_are_those_of_the_comments():
    """Above and beside, of an option that several methods have, in a function that is called."""
    said = reference_tables.meanings("pipeline")
    assert said["seed"] == "determines all randomness"
    assert said["dtype"].startswith("Compute dtype.") and said["dtype"].endswith("on accelerators")
    assert said["search.gdas.none"] == "whether the absence of an edge is a candidate"
    assert said["search.p_darts.keep"] == said["search.ddarts.keep"] != ""
    assert said["train.augment.cutout"] == said["search.augment.cutout"]
    shown = reference_tables.config_keys()
    tasks = {id(task): task for task in TASKS.values()}.values()
    assert all(
        f"| `{key}` | `{value!r}` |" in shown
        for t in tasks
        for key, value in configuration.flatten(t()).items()
    )


def test_the_other_tables():
    """Every config, every file of a workdir and every public name is listed, and each says something."""
    for table, names in (
        (reference_tables.configs(), configuration.shipped()),
        (reference_tables.workdir_files(), ("summary.json", "report.html", "evaluation-NAME.json")),
    ):
        assert all(f"| `{name}` | " in table for name in names) and "|  |" not in table
    api = reference_tables.public_api()
    assert set(reference_tables.public_names()) == set(ddarts_jax.__all__)
    assert all(f":: ddarts_jax.{name}\n" in api for name in ddarts_jax.__all__)
