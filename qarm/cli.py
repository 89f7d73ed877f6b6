"""The ``qarm`` command. The jobs in ``jobs/`` share its options and error handling."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from qarm import __version__
from qarm.codes import FORMATS
from qarm.config import Config, load
from qarm.errors import ConfigError, guarded
from qarm.pipeline.stages import STAGES, stage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

EXIT_CODES = """exit codes: 0 success; 1 other error; 2 configuration; 3 bad input; 4 a gate stopped
the run; 5 rows unaccounted for; 6 training failed; 7 an earlier stage has not run; 8 two runs wrote
to one table; 130 interrupted"""


def _instant(text: str) -> datetime:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected an ISO date or time such as 2026-11-23 or 2026-11-23T04:00:00, got {text!r}"
        ) from error
    if parsed.tzinfo is not None:
        parsed = parsed.astimezone(UTC).replace(tzinfo=None)
    return parsed


def _configured(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="TOML", help="configuration file (URI)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="override a setting; may be repeated",
    )
    parser.add_argument("--lake", metavar="URI", help="folder of the lake; overrides the setting")


def _master(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--master",
        default="local[*]",
        help="Spark master of the session; under spark-submit, use its own option (default: "
        "%(default)s)",
    )


def _common(parser: argparse.ArgumentParser) -> None:
    _configured(parser)
    _master(parser)
    parser.add_argument(
        "--as-of",
        type=_instant,
        metavar="TIME",
        help="current time of the run, ISO, UTC; ingest and mine-pairs use earlier events only "
        "(default: just after the log's last event)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="run the stage even if its inputs, settings and code are unchanged",
    )


def _config(arguments: argparse.Namespace) -> Config:
    overrides = list(arguments.set)
    if arguments.lake:
        overrides.append(f"lake={json.dumps(arguments.lake)}")
    from qarm.pairs.pair_sources import check_sources
    from qarm.pipeline.metric_gates import check_names

    config = load(arguments.config, overrides)
    check_names(config.gates)
    check_sources(config.pairs, config.alignment.sources)
    if config.codes.rq_last != "kmeans":
        from qarm.codes.kinds import last_kind

        last_kind(config.codes)  # raises where there is no such kind
    return config


def _session(config: Config, master: str) -> SparkSession:
    from qarm.session import open_session

    spark = open_session(f"qarm {config.name}", master=master, settings=config.spark)
    # Spark's own handler of Ctrl-C calls the JVM on the connection in use, which fails; our process
    # ends, and its JVM with it.
    signal.signal(signal.SIGINT, _interrupted)
    return spark


def _interrupted(number: int, frame: object) -> NoReturn:
    logging.disable(logging.ERROR)  # Py4J logs the traceback
    raise KeyboardInterrupt


def _json_option(parser: argparse.ArgumentParser, stage_name: str) -> None:
    """Option of stage quality, which prints its figures as tables or as JSON."""
    if stage_name == "quality":
        parser.add_argument(
            "--json", action="store_true", help="print the figures as JSON instead of tables"
        )


def _print_quality(tree: dict[str, Any], as_json: bool) -> None:
    from qarm.report.quality_tables import code_lines

    metrics = [m for m in tree["metrics"] if m["stage"] == "quality"]
    facts = next(s for s in tree["stages"] if s["name"] == "quality").get("facts", {})
    if as_json:
        print(json.dumps({"facts": facts, "metrics": metrics}))
    else:
        print("\n".join(code_lines(metrics, facts)))


def _run(arguments: argparse.Namespace, first: str | None, last: str | None) -> None:
    from qarm.lake.files import check_writable
    from qarm.pipeline.runner import run_pipeline

    names = [each.name for each in STAGES]
    if first and last and names.index(first) > names.index(last):
        raise ConfigError(
            f"--from {first} comes after --to {last}, so that no stage would run; the order is "
            f"{', '.join(names)}"
        )
    config = _config(arguments)
    check_writable(config.lake)
    spark = _session(config, arguments.master)
    tree = run_pipeline(
        config, spark, first=first, last=last, as_of=arguments.as_of, force=arguments.force
    )
    if first == last == "quality":
        _print_quality(tree, getattr(arguments, "json", False))
        return
    one = first is not None and first == last
    wanted = [s for s in tree["stages"] if s["name"] == first] if one else tree["stages"]
    brief = ("name", "status", "rows_in", "rows_out", "dropped", "seconds", "peak_bytes")
    print(json.dumps([{k: s[k] for k in brief if k in s} for s in wanted]))


def _export(arguments: argparse.Namespace) -> None:
    from qarm.pipeline.context import open_context
    from qarm.pipeline.export_codes import export_codes

    config = _config(arguments)
    spark = _session(config, arguments.master)
    context = open_context(config, spark, "export-codes", ("items", "semantic_ids", "codebooks"))
    print(
        json.dumps(
            export_codes(
                context, arguments.format, arguments.to, kind=arguments.codes, key=arguments.key
            )
        )
    )


def _lineage(arguments: argparse.Namespace) -> None:
    from qarm.pipeline.lineage import trace

    node = trace(_config(arguments), arguments.name)
    print(json.dumps(node.as_dict()) if arguments.json else "\n".join(node.lines()))


def _settings(arguments: argparse.Namespace) -> None:
    from qarm.config.describe import describe

    print(describe(arguments.section))


def _tables(arguments: argparse.Namespace) -> None:
    from schemas import TABLES
    from schemas.describe import describe

    if arguments.table is not None and arguments.table not in TABLES:
        raise ConfigError(f"no table {arguments.table!r}; tables: {', '.join(TABLES)}")
    print(describe(arguments.table))


def _anchor_pools(arguments: argparse.Namespace) -> None:
    from qarm.codes.compare_pools import table_of
    from qarm.pipeline.context import open_context
    from qarm.pipeline.export_codes import measure_anchor_pools

    config = _config(arguments)
    spark = _session(config, arguments.master)
    context = open_context(config, spark, "anchor-pools")
    print(table_of(measure_anchor_pools(context)))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="qarm",
        description="Aligned item vectors, semantic IDs and a ranker from interaction logs.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"qarm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    names = [s.name for s in STAGES]

    run = commands.add_parser("run", help="run all stages in order; skip those that are up to date")
    _common(run)
    run.add_argument("--from", dest="first", choices=names, help="start at this stage")
    run.add_argument("--to", dest="last", choices=names, help="stop after this stage")
    run.set_defaults(do=lambda a: _run(a, a.first, a.last))

    for each in STAGES:
        command = commands.add_parser(each.name, help=each.summary, description=each.summary)
        _common(command)
        _json_option(command, each.name)
        command.set_defaults(do=lambda a, name=each.name: _run(a, name, name))

    export = commands.add_parser(
        "export-codes", help="write semantic_ids as files for other projects"
    )
    _configured(export)
    _master(export)
    export.add_argument("--format", required=True, choices=FORMATS, help="see docs/codes.md")
    export.add_argument("--to", required=True, metavar="URI", help="folder or file to write")
    export.add_argument(
        "--codes",
        default="auto",
        choices=("auto", "rq", "rq_resolved"),
        help="codes to export; auto: rq_resolved if every item has one, else rq (default: "
        "%(default)s)",
    )
    export.add_argument(
        "--key",
        default="item_id",
        choices=("item_id", "item_idx"),
        help="id of the items in format minionerec (default: %(default)s)",
    )
    export.set_defaults(do=_export)

    lineage = commands.add_parser(
        "lineage", help="trace a table or an artifact back to the source files"
    )
    _configured(lineage)
    lineage.add_argument("name", help="a table, such as semantic_ids, or encoder, codebook, ranker")
    lineage.add_argument("--json", action="store_true", help="print the tree as JSON")
    lineage.set_defaults(do=_lineage)

    pools = commands.add_parser(
        "anchor-pools", help="compare the rules for VQ anchors by their coverage of the items"
    )
    _common(pools)
    pools.set_defaults(do=_anchor_pools)

    settings = commands.add_parser("settings", help="list all settings with default and meaning")
    settings.add_argument("section", nargs="?", help="only this section, such as ranker")
    settings.set_defaults(do=_settings)

    tables = commands.add_parser("tables", help="list all tables and columns with their meaning")
    tables.add_argument("table", nargs="?", help="only this table")
    tables.set_defaults(do=_tables)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``qarm``."""
    arguments = build_parser().parse_args(argv)
    return guarded(lambda: arguments.do(arguments))


def job(name: str, argv: Sequence[str] | None = None) -> int:
    """Entry point of a file in ``jobs/``: one stage, with the options of the command line."""
    each = stage(name)
    parser = argparse.ArgumentParser(
        prog=f"jobs/{name.replace('-', '_')}.py", description=each.summary, epilog=EXIT_CODES
    )
    _common(parser)
    _json_option(parser, each.name)
    arguments = parser.parse_args(argv)
    return guarded(lambda: _run(arguments, each.name, each.name))


if __name__ == "__main__":
    sys.exit(main())
