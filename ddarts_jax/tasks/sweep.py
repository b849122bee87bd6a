"""Task 'sweep': one config run for every combination of some values, with several seeds each."""

from pathlib import Path

from ddarts_jax.configuration import short_keys
from ddarts_jax.files import write_json, write_text
from ddarts_jax.reports import comparison, markdown, trade_offs
from ddarts_jax.reports.comparability import same_images
from ddarts_jax.runs import layout
from ddarts_jax.runs.run import Run
from ddarts_jax.tasks import points
from ddarts_jax.tasks.points import Point


def run(config, workdir: Path) -> dict:
    """Runs all points; runs that are finished are skipped, those that were interrupted continue.

    Writes `POINT/seed_K/`, the workdir of each run with its output in `log.txt`, `sweep.json` and
    `sweep.md`. If there are two runs or more: `report.html`, as task 'compare' does, unless they are
    detectors, and `sweep.svg` and `sweep.png`, accuracy over cost, if all were tested on the same images.

    Args:
        config: see `configuration.sweep_config`.
        workdir: an existing folder.

    Returns:
        The content of `sweep.json`: of each point its values, the record of each seed, and mean, sample
        standard deviation (null for a single run) and number of values of each measure.

    Raises:
        UserError: the config of a point cannot be used, the runs of a point had different data, or some
            runs failed; in the latter case the others have finished.
        Stopped: a signal ended the task; see `launch.run`.
    """
    found, failed = points.run_all(config, workdir)
    result = {
        "run": config.run,
        "overrides": list(config.overrides),
        "points": [
            {
                "values": point.values,
                "folder": point.folder,
                "seeds": {str(seed): points.record(run) for seed, run in point.runs.items()},
                "table": points.statistics(point.runs),
            }
            for point in found
        ],
        "failed": list(failed),
    }
    write_json(workdir / "sweep.json", result)
    text = _markdown(result, found)
    write_text(workdir / "sweep.md", text)
    print(text)
    runs = [run for point in found for run in point.runs.values()]
    if len(runs) > 1:
        _draw(result, runs, workdir)
    points.check_none_failed(failed, len(found) * len(config.seeds))
    return result


def _markdown(result: dict, found: list[Point]) -> str:
    """The table: a row for each point."""
    names = short_keys(found[0].values)
    columns = [
        column
        for column in points.MEASURES
        if any(column.key in point["table"] for point in result["points"])
    ]
    header = [*names.values(), "n", *(column.title for column in columns)]
    rows = []
    for point in found:
        values = [[column.of(run) for run in point.runs.values()] for column in columns]
        cells = [
            column.say([value for value in own if value is not None], len(point.runs)) or "-"
            for column, own in zip(columns, values)
        ]
        rows.append([*point.values.values(), len(point.runs), *cells])
    title = " ".join([result["run"], *result["overrides"]])
    note = "Mean ± sample standard deviation over n runs that differ by their seeds."
    return f"{title}\n\n{markdown.table(header, rows)}\n\n{note}\n"


def _draw(result: dict, runs: list[Run], workdir: Path) -> None:
    """Writes the report and the pictures of accuracy over cost, see `run`."""
    if not any(run.is_detector for run in runs):
        comparison.write_page(workdir / layout.REPORT, runs)
    tables = {point["folder"] or "all runs": point["table"] for point in result["points"]}
    means = {
        name: {key: (entry["mean"], entry["spread"]) for key, entry in table.items()}
        for name, table in tables.items()
    }
    for measure, title in (("test_accuracy", "test accuracy"), ("box_ap", "box AP")):
        drawn = {name: own for name, own in means.items() if {measure, "params"} <= set(own)}
        if drawn and same_images(dict(enumerate(runs))):
            trade_offs.draw(drawn, measure, title, workdir / "sweep")
