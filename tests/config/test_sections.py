"""Every section: documented, closed, frozen, and checked where fields depend on each other."""

from __future__ import annotations

from types import ModuleType

import pytest
from pydantic import ValidationError

from qarm.config import (
    Config,
    alignment,
    codes,
    encoder,
    evaluation,
    external,
    gates,
    items,
    log,
    pairs,
    ranker,
    samples,
    split,
    training,
)
from qarm.config.section import Section

MODULES = (
    alignment,
    codes,
    encoder,
    evaluation,
    external,
    gates,
    items,
    log,
    pairs,
    ranker,
    samples,
    split,
    training,
)


def own_sections(module: ModuleType) -> list[type[Section]]:
    """Sections that a module defines, without those that it imports."""
    return [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, Section)
        and kind.__module__ == module.__name__
    ]


SECTIONS = [kind for module in MODULES for kind in own_sections(module)]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__.split(".")[-1])
def test_every_module_defines_a_section_of_the_configuration(module: ModuleType) -> None:
    used = {field.annotation for field in Config.model_fields.values()}
    assert used & set(own_sections(module)), "the configuration has no such section"


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.__name__)
def test_a_section_is_documented_and_its_defaults_are_valid(section: type[Section]) -> None:
    assert (section.__doc__ or "").strip()
    for name, field in section.model_fields.items():
        described = (field.description or "").strip()
        own = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        assert own or described.endswith((".", '"')), f"{name}: {described!r}"
    defaults = section()
    assert section.model_validate(defaults.model_dump(mode="json")) == defaults


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.__name__)
def test_a_section_is_closed_and_frozen(section: type[Section]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        section.model_validate({"no_such_setting": 1})
    name = next(iter(section.model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(section(), name, None)


def test_a_split_leaves_a_share_for_test() -> None:
    assert split.Split(mine=0.25, train=0.5, valid=0.125).mine == 0.25
    for kind in ("global", "per_user"):
        with pytest.raises(ValidationError, match="leave a share for test, got 1"):
            split.Split(kind=kind, mine=0.25, train=0.5, valid=0.25)
    # Shares do not matter where the split is not made of shares.
    assert split.Split(kind="leave_last_n", mine=0.25, train=0.5, valid=0.25).valid == 0.25


def test_parts_of_a_split_are_known() -> None:
    with pytest.raises(ValidationError, match=r"column_values names parts \['dev'\]"):
        split.Split(kind="column", column_values={"a": "train", "b": "dev"})
    with pytest.raises(ValidationError, match=r"files names parts \['holdout'\]"):
        split.Split(kind="files", files={"holdout": ["x.csv"]})
    with pytest.raises(ValidationError, match=r"needs split\.files"):
        split.Split(kind="files")
    assert split.Split(kind="files", files={"test": ["x.csv"]}).files["test"] == ["x.csv"]


def test_the_positive_label_is_one_of_the_labels() -> None:
    assert log.LogSource(labels={"buy": "n > 0"}, positive="buy").positive == "buy"
    with pytest.raises(ValidationError, match=r"'positive', which is not among labels \['buy'\]"):
        log.LogSource(labels={"buy": "n > 0"})
    with pytest.raises(ValidationError, match="must be identifiers"):
        log.LogSource(labels={"positive": "true", "add to cart": "true"})


def test_external_tables_have_a_schema() -> None:
    own = external.External(tables={"item_pairs": "s3://lake/pairs"})
    assert own.tables == {"item_pairs": "s3://lake/pairs"}
    with pytest.raises(ValidationError, match="'item_pair'; did you mean 'item_pairs'"):
        external.External(tables={"item_pair": "x"})
    with pytest.raises(ValidationError, match=r"'zzzz'; tables: .*item_embeddings"):
        external.External(tables={"zzzz": "x"})


def test_an_evaluation_has_a_cutoff() -> None:
    with pytest.raises(ValidationError, match="recall_at"):
        evaluation.Evaluation(recall_at=[])
    with pytest.raises(ValidationError, match="max_pairs"):
        evaluation.Evaluation(max_pairs=0)


def test_an_item_source_keeps_or_quarantines_unknown_items() -> None:
    assert items.ItemSource().unknown == "quarantine"
    with pytest.raises(ValidationError, match="unknown"):
        items.ItemSource(unknown="drop")  # type: ignore[arg-type]
