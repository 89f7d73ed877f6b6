"""Configuration: TOML plus overrides, errors that name the field."""

from __future__ import annotations

from pathlib import Path

import pytest

from qarm.config import fingerprint, load
from qarm.config.describe import describe
from qarm.errors import ConfigError
from qarm.lake import files
from qarm.pairs.pair_sources import check_sources

CONF = Path(__file__).resolve().parents[2] / "conf"


def _write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "x.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("path", sorted(CONF.glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_configurations_are_valid(path: Path) -> None:
    config = load(str(path))
    assert all(Path(p).is_absolute() for p in config.log.path)


def test_misspelt_key_gets_a_suggestion(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"log\.pathh: no such setting; did you mean 'path'"):
        load(_write(tmp_path, '[log]\npathh = ["a"]'))
    with pytest.raises(ConfigError, match=r"pairs\.swing\.alpha: .* did you mean 'alpha"):
        load(_write(tmp_path, "[pairs.swing]\nalpha = 1"))


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[ranker]\nepochs = 0", "ranker.epochs"),
        ('[ranker]\nepochs = "many"', "ranker.epochs"),
        ("[split]\ntrain = 0.9\nvalid = 0.2", "mine . train . valid must leave a share"),
        ("[codes]\nrq_levels = []", "rq_levels"),
        ('[log]\npositive = "click"', "positive names label 'click'"),
        ('[split]\nkind = "files"', "needs split.files"),
    ],
)
def test_bad_values_name_the_field(tmp_path, text, field) -> None:
    with pytest.raises(ConfigError, match=field):
        load(_write(tmp_path, text))


def test_missing_file_and_broken_toml(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        load(str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(_write(tmp_path, "[log"))


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("train = 0,8", "decimals have a point"),
        ("from_log = True", "lower case"),
        ("time = None", "no null"),
        ("user: user_id", "name = value"),
        ("user = user_id", "in quotes"),
        ('lake = "C:\\Users\\x"', "backslash"),
    ],
)
def test_habits_of_other_languages(tmp_path, line, hint) -> None:
    with pytest.raises(ConfigError, match="not valid TOML") as caught:
        load(_write(tmp_path, f'name = "x"\n{line}\n'))
    assert hint in str(caught.value)
    assert repr(line) in str(caught.value)


def test_encodings_of_the_file(tmp_path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b'\xef\xbb\xbfname = "marked"\n')
    assert load(str(path)).name == "marked"
    path.write_bytes('\nname = "Größe"\n'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"x\.toml is not UTF-8: byte 0xf6 in line 2"):
        load(str(path))


def test_overrides(tmp_path) -> None:
    path = _write(tmp_path, "[ranker]\nepochs = 2")
    config = load(path, ["ranker.epochs=5", "name=two words", "codes.rq_levels=[8, 8]"])
    assert (config.ranker.epochs, config.name, config.codes.rq_levels) == (5, "two words", [8, 8])
    with pytest.raises(ConfigError, match=r"section\.field=value"):
        load(path, ["ranker.epochs"])


def test_fingerprint_depends_on_values_only(tmp_path) -> None:
    a = load(_write(tmp_path, "[ranker]\nepochs = 2\nbatch_size = 8"))
    b = load(_write(tmp_path, "[ranker]\nbatch_size = 8\nepochs = 2"))
    c = load(_write(tmp_path, "[ranker]\nbatch_size = 8\nepochs = 3"))
    assert fingerprint(a.ranker) == fingerprint(b.ranker) != fingerprint(c.ranker)


def test_every_setting_is_documented() -> None:
    lines = describe().splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if " = " in line and not line.startswith((" ", "[")) and "optimizer" not in line:
            assert below.startswith("    "), f"{line} has no documentation"
    with pytest.raises(ConfigError, match="sections:"):
        describe("rankr")


def test_names_that_nobody_asks_for_are_no_names(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"external\.tables: .*'item_pair'; did you mean 'item_p"):
        load(_write(tmp_path, '[external.tables]\nitem_pair = "a"'))
    with pytest.raises(ConfigError, match=r"external\.tables: .*'qqq'; tables: items, users"):
        load(_write(tmp_path, '[external.tables]\nqqq = "a"'))
    config = load(_write(tmp_path, "[alignment]\nsources = { swng = 1.0, u2i = 1.0 }"))
    with pytest.raises(ConfigError, match=r"alignment\.sources .*'swng'.*did you mean 'swing'"):
        check_sources(config.pairs, config.alignment.sources)
    config = load(_write(tmp_path, "[alignment]\nsources = { user = 1.0, itemcf = 0.5 }"))
    check_sources(config.pairs, config.alignment.sources)
    assert config.alignment.sources == {"user": 1.0, "itemcf": 0.5}


def test_ranks_that_cannot_share_the_shards_are_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"shards \(8\) must .* training.ranks \(3\), such as 9"):
        load(_write(tmp_path, "[training]\nranks = 3"))
    assert load(_write(tmp_path, "loader.shards = 12\ntraining.ranks = 3")).loader.shards == 12


_PATHS = """
log.path = ["logs/*.csv", "../else.csv", "s3a://other/x", "/data/y"]
items.path = ["items.jsonl"]
split.files = { train = ["t.csv"] }
external.tables = { item_pairs = "pairs" }
encoder.text_backbone = "models/bert"
"""


def test_paths_are_beside_a_configuration_that_is_a_uri() -> None:
    files.write_text("memory://bucket/conf/x.toml", _PATHS)
    config = load("memory://bucket/conf/x.toml")
    assert config.log.path == [
        "memory://bucket/conf/logs/*.csv",
        "memory://bucket/else.csv",
        "s3a://other/x",
        "/data/y",
    ]
    assert config.items.path == ["memory://bucket/conf/items.jsonl"]
    assert config.split.files == {"train": ["memory://bucket/conf/t.csv"]}
    assert config.external.tables == {"item_pairs": "memory://bucket/conf/pairs"}
    assert config.encoder.text_backbone == "memory://bucket/conf/models/bert"
    files.write_text("memory://bucket/x.toml", 'log.path = ["../other/x"]')
    with pytest.raises(ConfigError, match=r"'\.\./other/x' leads out of memory://bucket"):
        load("memory://bucket/x.toml")


@pytest.mark.parametrize("prefix", ["", "file:", "file://"])
def test_folders_of_backbones_are_beside_the_file(tmp_path, prefix, monkeypatch) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    monkeypatch.chdir("/")
    config = load(prefix + _write(folder, _PATHS))
    assert config.encoder.text_backbone == str(folder / "models" / "bert")
    assert config.log.path[:2] == [str(folder / "logs" / "*.csv"), str(tmp_path / "else.csv")]
    config = load(prefix + _write(folder, 'encoder.text_backbone = "/models/bert"'))
    assert config.encoder.text_backbone == "/models/bert"
