"""Task 'seeds': one config run for several seeds, and a summary of the results: a sweep of one point."""

from pathlib import Path

from ddarts_jax.files import write_json, write_text
from ddarts_jax.reports import markdown
from ddarts_jax.tasks import points


def run(config, workdir: Path) -> dict:
    """Runs all seeds; those that are finished are skipped, those that were interrupted continue.

    Writes `seed_K/`, the workdir of each run with its output in `log.txt`, `seeds.json` and `seeds.md`.

    Args:
        config: see `configuration.seeds_config`.
        workdir: an existing folder.

    Returns:
        The content of `seeds.json`: the record of each seed, and mean, sample standard deviation (null
        for a single run) and number of values of each measure.

    Raises:
        UserError: the config file or an override cannot be used, the runs had different data, or some
            seeds failed; in the latter case the others have finished.
        Stopped: a signal ended the task; see `launch.run`.
    """
    (point,), failed = points.run_all(config, workdir)
    result = {
        "run": config.run,
        "overrides": list(config.overrides),
        "seeds": {str(seed): points.record(run) for seed, run in point.runs.items()},
        "table": points.statistics(point.runs),
        "failed": sorted(set(config.seeds) - set(point.runs)),
    }
    write_json(workdir / "seeds.json", result)
    text = _markdown(result)
    write_text(workdir / "seeds.md", text)
    print(text)
    points.check_none_failed(failed, len(config.seeds))
    return result


def _markdown(result: dict) -> str:
    """The table: a row for each seed, then mean, spread and n."""
    table = result["table"]
    columns = [column for column in points.MEASURES if column.key in table]

    def row(title, values):
        found = [(column, values.get(column.key)) for column in columns]
        cells = ["-" if value is None else column.say([value], 1) for column, value in found]
        return [title, *cells]

    rows = [
        *(row(seed, record) for seed, record in result["seeds"].items()),
        row("mean", {key: entry["mean"] for key, entry in table.items()}),
        row("spread", {key: entry["spread"] for key, entry in table.items()}),
        ["n", *(table[column.key]["n"] for column in columns)],
    ]
    title = " ".join([result["run"], *result["overrides"]])
    text = markdown.table(["seed", *(column.title for column in columns)], rows)
    return f"{title}\n\n{text}\n\nSpread: sample standard deviation.\n"
