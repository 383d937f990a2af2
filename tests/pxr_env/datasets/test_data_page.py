"""The examples on the page about data are what the loaders read."""

import argparse
import base64
import io
import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from pxr_env.datasets import FORMATS, archives, check, open_dataset, recognize
from pxr_env.datasets.formats import KEYS

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## [^\n]*\(`(\w+)`\)\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL))


def block(text, language):
    return re.search(rf"```{language}\n(.*?)```", text, re.DOTALL).group(1)


def picture_bytes():
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(buffer, "PNG")
    return buffer.getvalue()


def write_table(path, name, rows):
    """Writes the rows of an example as the data file of its format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".tsv":
        for row in rows:
            row["image"] = base64.b64encode(picture_bytes()).decode()
        lines = [list(rows[0]), *(list(map(str, row.values())) for row in rows)]
        path.write_text("".join("\t".join(line) + "\n" for line in lines))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps({"data": rows} if name == "infographicvqa" else rows))


@pytest.fixture
def example(tmp_path):
    """A function that writes the files of a format's example and returns their directory."""

    def write(name):
        table, *media = (tmp_path / line.removeprefix("DIR/") for line in block(SECTIONS[name], "text").splitlines())
        write_table(table, name, [json.loads(line) for line in block(SECTIONS[name], "json").splitlines()])
        for path in media:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"\0\0\0\x18ftypisom" if path.suffix == ".mp4" else picture_bytes())
        return tmp_path

    return write


def test_every_format_has_a_section_and_a_line_of_the_table():
    assert SECTIONS.keys() == FORMATS.keys()
    table = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", PAGE, re.MULTILINE))
    assert table == {name: loader.__name__ for name, loader in FORMATS.items()}
    for name, loader in FORMATS.items():
        scorer = getattr(loader, "scorer", None)
        assert f"| `{name}` | `{loader.__name__}` | {f'`{scorer}` ' if scorer else ''}|" in PAGE


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"huggingface"}))
def test_examples_are_good_rows_of_their_format(example, name):
    directory = example(name)
    assert recognize(directory) == ("rl_data" if name == "evaluation" else name)
    data = open_dataset(directory, name)
    assert (len(data), data.skipped, data.warnings) == (len(block(SECTIONS[name], "json").splitlines()), (), ())


def test_all_keys_and_arguments_are_documented():
    table = SECTIONS["jsonl"].partition("| key | value |")[2]
    cells = [line.split("|")[1] for line in table.splitlines()[2:] if line.startswith("|")]
    assert re.findall(r"`(\w+)`", "".join(cells)) == [
        *("id", "question", "images", "video", "answers", "options", "category", "cluster", "start", "end", "fps"),
        *("evidence_box", "evidence_time", "needs_operation"),
    ]
    assert set(re.findall(r"`(\w+)`", "".join(cells))) == set(KEYS)
    used = {key for line in block(SECTIONS["jsonl"], "json").splitlines() for key in json.loads(line)}
    assert used == set(KEYS)
    for name, loader in FORMATS.items():
        for argument in loader.__init__.__kwdefaults__:
            assert f"`{argument}" in PAGE.partition("## ")[0] + SECTIONS[name], (name, argument)


def test_the_python_block_runs(example, monkeypatch, capsys):
    directory = example("vstar")
    monkeypatch.chdir(directory.parent)
    os.symlink(directory, directory.parent / "DIR")
    try:
        exec(block(PAGE, "python"), {})
    finally:
        os.unlink(directory.parent / "DIR")
    assert "What is the material of the glove?" in capsys.readouterr().out


def test_the_commands_are_understood():
    commands = {"check": check.add_arguments, "unpack": archives.add_arguments}
    seen = set()
    for line in re.findall(r"^python -m pxr_env (.*)$", PAGE, re.MULTILINE):
        command, *arguments = line.split()
        parser = argparse.ArgumentParser()
        commands[command](parser)
        parser.parse_args(arguments)
        seen.add(command)
    assert seen == commands.keys()
