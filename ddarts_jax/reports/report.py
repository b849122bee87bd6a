"""What a run did and found, as one page: `report.html` in its workdir.

Everything comes from the files of the workdir, so that the report of a run that still goes, was
interrupted or has only one phase shows what there is.
"""

import dataclasses
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ddarts_jax import configuration
from ddarts_jax.errors import UserError
from ddarts_jax.files import read_json
from ddarts_jax.genotypes.genotype import Genotype, num_edges
from ddarts_jax.genotypes.spaces import SPACES
from ddarts_jax.reports import drawing
from ddarts_jax.reports.page import COLOURS, Page, cell_names, line, reduction_cells
from ddarts_jax.runs import identity, metrics

PARAMETER_FREE = ("max_pool_3x3", "avg_pool_3x3", "skip_connect")


@dataclasses.dataclass(frozen=True)
class Run:
    """What lies in a workdir; what is missing is empty or None.

    Attributes:
        workdir: of the run.
        config: {dotted key: value}.
        search: rows of the metrics, one an epoch.
        train: likewise.
        candidates: likewise of a random search, one row a candidate.
        genotypes: the parsed genotype by epoch of the search, ascending.
        probabilities: by epoch, float [distinct cells, E, O], of the candidates `primitives`.
        primitives: the search's candidates, empty if the config does not say them.
        network: the genotype that is trained, or the newest of the search.
        evaluation: what `evaluation.json` holds.
        summary: what `summary.json` holds; it is there when the run has ended.
        versions: what `versions.json` holds.
    """

    workdir: Path
    config: dict[str, Any]
    search: list[dict]
    train: list[dict]
    candidates: list[dict]
    genotypes: dict[int, Genotype]
    probabilities: dict[int, np.ndarray]
    primitives: tuple[str, ...]
    network: Genotype | None
    evaluation: dict
    summary: dict
    versions: dict

    @property
    def name(self) -> str:
        """Of the workdir."""
        return self.workdir.resolve().name

    def outcome(self, key: str) -> float | None:
        """A number of the summary."""
        return _number(self.summary.get(key))


def read(workdir: str | Path) -> Run:
    """Reads the workdir of a run.

    Raises:
        UserError: there is no run in it, or a file of it is broken.
    """
    workdir = Path(workdir)
    path = workdir / "metrics.jsonl"
    rows = metrics.read(path) if path.exists() else []
    config = identity.up_to_date(_read_object(workdir / "config.json"))
    if not rows and not config:
        raise UserError(f"There is no run in {workdir}: neither config.json nor metrics.jsonl.")
    genotypes = _read_genotypes(workdir / "genotypes")
    results = [workdir / name for name in ("network_genotype.json", "genotype.json")]
    networks = [Genotype.load(path) for path in results if path.exists()]
    primitives = SPACES.get(str(config.get("search.space")), ())
    return Run(
        workdir,
        config,
        *(
            [row for row in rows if row["phase"] == phase]
            for phase in ("search", "train", "random")
        ),
        genotypes,
        _read_probabilities(workdir, config, genotypes, primitives),
        primitives,
        next(iter([*networks, *reversed(genotypes.values())]), None),
        *(
            _read_object(workdir / name)
            for name in ("evaluation.json", "summary.json", "versions.json")
        ),
    )


def write(workdir: str | Path) -> Path:
    """Writes `report.html` into the workdir of a run, finished or not.

    Returns:
        The path of the page.

    Raises:
        UserError: see `read`.
    """
    run = read(workdir)
    page = Page(
        f"{run.name}: {run.config.get('task', 'run')} on {run.config.get('data.name', '?')}"
    )
    page.sentences(_findings(run))
    page.sentences(_warnings(run), "warning")
    _add_network(page, run)
    _add_search(page, run)
    _add_training(page, run)
    _add_cost(page, run)
    _add_settings(page, run)
    path = run.workdir / "report.html"
    page.write(path)
    return path


def series(rows: list[dict], key: str, cell: int | None = None) -> list[float | None]:
    """The numbers of a metric, one a row; of one cell, where each cell has its own.

    What is missing or no finite number is None.
    """
    values = [row.get(key) for row in rows]
    if cell is not None:
        values = [v[cell] if isinstance(v, list) and len(v) > cell else None for v in values]
    return [_number(value) for value in values]


def last(rows: list[dict], key: str) -> float | None:
    """A metric's number in the last row that has one."""
    return last_number(series(rows, key))


def last_number(values: list[float | None]) -> float | None:
    """The last that is not None."""
    return next((value for value in reversed(values) if value is not None), None)


def gaps(rows: list[dict]) -> list[float | None]:
    """The discretisation gap after each epoch of a search.

    It is the accuracy of the supernet less that of the same supernet masked to its genotype.
    """
    pairs = zip(series(rows, "supernet_accuracy"), series(rows, "discrete_accuracy"))
    return [None if a is None or b is None else a - b for a, b in pairs]


def shares(genotype: Genotype) -> dict[str, float]:
    """The share of every primitive in what the distinct cells keep; empty if they keep nothing."""
    counts = Counter(primitive for cell in genotype.genes for primitive, _, _ in cell)
    return {primitive: count / counts.total() for primitive, count in counts.items()}


def parameter_free_share(genotype: Genotype) -> float | None:
    """The share of pools and skip connections in what is kept; None if nothing is."""
    found = shares(genotype)
    return sum(found.get(primitive, 0.0) for primitive in PARAMETER_FREE) if found else None


def duration(seconds: float) -> str:
    """Seconds, minutes and seconds, or hours and minutes."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


# ---------------------------------------------------------------- words


def _findings(run: Run) -> list[str]:
    """The first lines of the report: where the run stands, and what it found."""
    sentences = [_standing(run)]
    cost = _cost_in_words(run)
    accuracy = run.outcome("test_accuracy")
    if accuracy is not None:
        sentences.append(f"The network found reaches {accuracy:.2%} on the test images{cost}.")
    elif run.train:
        tested = last(run.train, "accuracy")
        if tested is not None:
            sentences.append(f"The network has reached {tested:.2%} on the test images so far.")
    elif cost:
        sentences.append(f"The network found was not trained here{cost}.")
    supernet = last(run.search, "accuracy")
    if supernet is not None:
        decided = last(run.search, "decided")
        sentences.append(
            f"In the search's last epoch the supernet was right on {supernet:.1%} of the images that "
            "the architecture learns from"
            + (
                f", and {decided:.0%} of the candidates were decided."
                if decided is not None
                else "."
            )
        )
    masked, gap = last(run.search, "discrete_accuracy"), last_number(gaps(run.search))
    if gap is not None:
        sentences.append(
            f"With only the kept primitives that supernet is right on {masked:.1%} of images that the "
            f"architecture learns from instead of {masked + gap:.1%}: the discretisation gap."
        )
    moved = last(run.search, "distance_to_start")
    if moved is not None:
        start = run.config.get("search.start.genotype") or "its start"
        sentences.append(f"The genotype's distance to {start} is {moved:.4f}.")
    if run.network:
        sentences.append(_kept_in_words(run.network))
    return sentences


def _standing(run: Run) -> str:
    """How far the run has come."""
    if run.summary:
        seconds = run.outcome("seconds")
        took = f" after {duration(seconds)}" if seconds is not None else ""
        return f"The run has ended{took}."
    for phase, name, rows in (("train", "training", run.train), ("search", "search", run.search)):
        if rows:
            epochs = [run.config.get(f"{phase}.epochs")]
            if phase == "search" and run.config.get("search.start.genotype"):
                epochs.append(run.config.get("search.start.epochs"))
            planned = f" of {sum(epochs)}" if all(isinstance(e, int) for e in epochs) else ""
            return f"The run has not ended: epoch {rows[-1]['epoch']}{planned} of the {name}."
    if run.candidates:
        count = run.config.get("search.random")
        planned = f" of {count}" if isinstance(count, int) else ""
        number = run.candidates[-1]["epoch"]
        return f"The run has not ended: candidate {number}{planned} of the random search."
    return "The run has no finished epoch yet."


def _cost_in_words(run: Run) -> str:
    params, macs = run.outcome("params"), run.outcome("macs")
    if params is None or macs is None:
        return ""
    return f"; it has {params:,.0f} parameters and takes {macs / 1e6:,.2f} million MACs an image"


def _kept_in_words(genotype: Genotype) -> str:
    kept = sum(len(cell) for cell in genotype.cells)
    free = parameter_free_share(genotype)
    if free is None:
        return "No cell of the network keeps a primitive."
    return (
        f"The network's {genotype.num_cells} cells keep {kept} primitives, {free:.0%} of them "
        "parameter-free."
    )


def _warnings(run: Run) -> list[str]:
    if not run.network:
        return []
    sentences = []
    free = parameter_free_share(run.network)
    if free is not None and free > 0.5:
        sentences.append(
            f"Parameter-free primitives take over: {free:.0%} of what is kept are pools and skip "
            "connections. So collapse searches that favour what needs no training."
        )
    names = cell_names(run.network)
    empty = [name for name, cell in zip(names, run.network.genes) if not cell]
    if empty and run.summary:  # before the end alphas may still pass the threshold
        sentences.append(
            f"Nothing is kept in {', '.join(empty)}: no candidate there reaches the threshold of the "
            "parsing."
        )
    return sentences


# ---------------------------------------------------------------- sections

_CELLS = (
    "An arrow is a kept primitive, its width its probability where that is known; faint arrows lead "
    "to the cell's output. k-2 and k-1 are the outputs of the two cells before; a node without inputs "
    "is faint. Cells that reduce the image are yellow. In D-DARTS every cell has a genotype of its own."
)


def _add_network(page: Page, run: Run) -> None:
    """The cells: settling over the epochs of the search, and those of the network if they differ."""
    page.heading("Network")
    newest = next(reversed(run.genotypes.values()), None)
    if newest:
        relaxation = run.config.get("search.relaxation", "sigmoid")
        page.settling(
            "Genotype parsed from the alphas after each epoch. " + _CELLS,
            f"{relaxation}(alpha) of every candidate, from 0 (white) to 1 (dark); framed: kept. Rows "
            "are edges, source → node. The zero-one loss pushes towards 0 and 1.",
            run.genotypes,
            run.probabilities,
            run.primitives,
        )
    if run.network and run.network != newest:
        positions = enumerate(run.network.cells)
        page.cells(
            "Network that is trained" if newest else "Cells",
            "The network's cells in order. " + _CELLS,
            [
                (f"cell {position}", run.network, cell, position in run.network.reductions)
                for position, cell in positions
            ],
        )
    if not run.network:
        page.sentences(["The workdir holds no genotype yet."], "note")


def _add_search(page: Page, run: Run) -> None:
    rows = run.search
    if not rows:
        return
    page.heading("Search")
    epochs = [row["epoch"] for row in rows]

    def curves(*specifications):
        return [
            line(name, epochs, series(rows, key), COLOURS[index % len(COLOURS)], style)
            for index, (name, key, style) in enumerate(specifications)
        ]

    page.chart(
        "Accuracy",
        "Of the supernet in training: on the half of the images that moves the alphas, and on the half "
        "that moves the weights (bilevel optimisation).",
        curves(
            ("architecture half", "accuracy", "solid"),
            ("weight half", "weights_accuracy", "dash"),
        ),
        yaxis={"tickformat": ".1~%"},
    )
    page.chart(
        "Cross-entropy",
        "L_CE of the supernet on the two halves.",
        curves(
            ("architecture half", "loss", "solid"),
            ("weight half", "weights_loss", "dash"),
        ),
    )
    page.chart(
        "Discretisation gap",
        "Accuracy, on some of the images that move the alphas, of the supernet with all its candidates, "
        "of the same supernet masked to the parsed genotype, and their difference: how much the alphas "
        "still have to decide.",
        [
            *curves(
                ("supernet", "supernet_accuracy", "solid"),
                ("masked to the genotype", "discrete_accuracy", "dash"),
            ),
            line("gap", epochs, gaps(rows), COLOURS[2], "dot"),
        ],
        yaxis={"tickformat": ".1~%"},
    )
    page.chart(
        "Decided candidates",
        "Share of the alphas whose probability is above 0.9 or below 0.1.",
        curves(("decided", "decided", "solid")),
        yaxis={"tickformat": ".1~%", "range": [0, 1.02]},
        showlegend=False,
    )
    page.chart(
        "Share of each primitive",
        "Of all that the parsed genotype keeps, cell by cell counted alike. Above the dashed line "
        "parameter-free primitives (pools, skip connections; at the bottom) have taken over.",
        _share_traces(run.genotypes),
        yaxis={"tickformat": ".1~%", "range": [0, 1]},
        barmode="stack",
        bargap=0.1,
        shapes=[
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": 0.5,
                "y1": 0.5,
                "line": {"color": "#111827", "width": 1.5, "dash": "dash"},
            }
        ],
    )
    page.chart(
        "Distance",
        "The paper's distance of architectures (mean over the cells of the Hausdorff distance of their "
        "edges) between consecutive epochs, and to the start where the search has one (DARTOpti). "
        "Positional: edge by edge.",
        curves(
            ("to the epoch before", "distance_to_last", "solid"),
            ("to the start", "distance_to_start", "dash"),
            ("to the start, positional", "positional_distance_to_start", "dot"),
        ),
        yaxis={"rangemode": "tozero"},
    )
    for title, caption, key in _CELL_METRICS:
        page.chart(title, caption, _cell_traces(run, key))
    rates = curves(("weights", "learning_rate_weights", "solid"))
    page.chart(
        "Learning rates",
        "Of the weights (SGD) and of each cell's alphas (Adam), on a logarithmic axis.",
        rates + _cell_traces(run, "learning_rate_alphas", prefix="alphas, "),
        yaxis={"type": "log"},
    )
    page.chart(
        "Norms of the weights' steps",
        "Norm of the gradient before it is clipped, and of the update; on a logarithmic axis.",
        curves(
            ("gradient", "gradient_norm_weights", "solid"),
            ("update", "update_norm_weights", "dash"),
        ),
        yaxis={"type": "log"},
    )
    page.chart(
        "Norm of the alphas' gradient",
        "Of L_T, cell by cell.",
        _cell_traces(run, "gradient_norm_alphas"),
    )
    page.chart(
        "Speed of the search",
        "Images a second, both halves together.",
        curves(("images a second", "images_per_second", "solid")),
        yaxis={"rangemode": "tozero"},
        showlegend=False,
    )


_CELL_METRICS = (
    (
        "Marginal contribution",
        "M_i = L_CE(C) - L_CE(C without cell i), D-DARTS equation 3: below zero where the cell helps.",
        "marginal_contribution",
    ),
    (
        "Total loss",
        "L_T of each cell, which its alphas minimise: cross-entropy + w_01 · zero-one loss + w_AB · "
        "ablation loss.",
        "loss_total",
    ),
    (
        "Ablation loss",
        "L_AB, D-DARTS equation 4: below zero where the cell helps more than the average cell.",
        "loss_ablation",
    ),
    (
        "Zero-one loss",
        "L_01 (FairDARTS), from 0 (every probability at one half) to -0.25 (all decided).",
        "loss_zero_one",
    ),
)


def _add_training(page: Page, run: Run) -> None:
    rows = run.train
    if not rows:
        return
    page.heading("Training of the network")
    epochs = [row["epoch"] for row in rows]

    def curves(*specifications):
        return [
            line(name, epochs, series(rows, key), COLOURS[index], style)
            for index, (name, key, style) in enumerate(specifications)
        ]

    page.chart(
        "Accuracy",
        "On the test images after each epoch, and on the augmented training images during it.",
        curves(("test", "accuracy", "solid"), ("training", "train_accuracy", "dash")),
        yaxis={"tickformat": ".1~%"},
    )
    page.chart(
        "Loss",
        "Cross-entropy on the test images; on the training images with what the recipe adds (label "
        "smoothing, auxiliary head).",
        curves(("test", "test_loss", "solid"), ("training", "loss", "dash")),
    )
    page.chart(
        "Learning rate",
        "Of SGD, at the end of the epoch.",
        curves(("learning rate", "learning_rate", "solid")),
        showlegend=False,
    )
    page.chart(
        "Norms of the steps",
        "Norm of the gradient before it is clipped, and of the update; on a logarithmic axis.",
        curves(("gradient", "gradient_norm", "solid"), ("update", "update_norm", "dash")),
        yaxis={"type": "log"},
    )
    classes = run.evaluation.get("classes")
    if isinstance(classes, dict):
        accuracies = [
            _number(found.get("accuracy")) if isinstance(found, dict) else None
            for found in classes.values()
        ]
        page.chart(
            "Accuracy by class",
            "Of the trained network on the test images; the confusion matrix lies beside this page.",
            [{"type": "bar", "x": list(classes), "y": accuracies, "marker": {"color": COLOURS[0]}}],
            xaxis={"title": {"text": "class"}, "type": "category"},
            yaxis={"tickformat": ".1~%"},
            hovermode="closest",
            showlegend=False,
        )


def _add_cost(page: Page, run: Run) -> None:
    evaluation = run.evaluation
    totals = [run.outcome(key) for key in ("params", "macs")]
    parts = [_numbers(evaluation.get(key)) for key in ("cell_params", "cell_macs")]
    times = [
        (name, len(rows), duration(sum(v or 0 for v in series(rows, "seconds"))))
        for name, rows in (
            ("search", run.search),
            ("random search", run.candidates),
            ("training", run.train),
        )
        if rows
    ]
    if None in totals and not times:
        return
    page.heading("Cost")
    if None not in totals:
        rows = []
        if run.network and all(len(part) == run.network.num_cells for part in parts):
            for position, cost in enumerate(zip(*parts)):
                kind = "reduction" if position in run.network.reductions else "normal"
                rows.append((f"cell {position}", kind, *cost))
            rest = (total - sum(part) for total, part in zip(totals, parts))
            rows.append(("stem and classifier", "", *rest))
        rows.append(("network", "", *totals))
        page.table(
            "Parameters and MACs",
            "Of the derived network, for one image; MACs are multiplications with an addition.",
            ("part", "kind", "parameters", "MACs"),
            rows,
        )
    page.table(
        "Time",
        "Sum over the epochs, without compiling; a random search counts its candidates instead.",
        ("phase", "epochs", "time"),
        times,
    )
    speed = evaluation.get("speed")
    if isinstance(speed, list):
        keys = ("batch_size", "milliseconds", "images_per_second")
        found = [[_number(row.get(key)) for key in keys] for row in speed if isinstance(row, dict)]
        page.table(
            "Speed of the network",
            "Forward pass of the trained network on this device.",
            ("images at once", "milliseconds", "images a second"),
            [[None if v is None else round(v, 2) for v in row] for row in found],
        )


def _add_settings(page: Page, run: Run) -> None:
    page.heading("Settings")
    page.table(
        "Versions",
        "Of what the run ran with.",
        ("part", "version"),
        [(key, str(value)) for key, value in configuration.flatten(run.versions).items()],
    )
    defaults = configuration.flatten(configuration.default_config().to_dict())
    page.folded(
        "Config (bold: not the default)",
        [
            (key, value, key in defaults and value != _as_json(defaults[key]))
            for key, value in sorted(run.config.items())
        ],
    )


def _cell_traces(run: Run, key: str, prefix: str = "") -> list[dict]:
    """One curve a distinct cell, reduction cells dashed; one for all where they are equal."""
    rows = run.search
    epochs = [row["epoch"] for row in rows]
    lists = [row[key] for row in rows if isinstance(row.get(key), list)]
    count = max(map(len, lists), default=0)
    every = [series(rows, key, cell) for cell in range(count)]
    newest = next(reversed(run.genotypes.values()), None)
    names, reductions = [f"cell {cell}" for cell in range(count)], [False] * count
    if newest and len(newest.genes) == count:
        names, reductions = cell_names(newest), reduction_cells(newest)
    if count > 1 and all(values == every[0] for values in every):
        every, names, reductions = every[:1], ["every cell"], [False]
    return [
        line(
            prefix + name + (" (reduction)" if reduction else ""),
            epochs,
            values,
            COLOURS[(cell + bool(prefix)) % len(COLOURS)],
            "dash" if reduction else "solid",
        )
        for cell, (name, reduction, values) in enumerate(zip(names, reductions, every))
    ]


def _share_traces(genotypes: dict[int, Genotype]) -> list[dict]:
    """Stacked shares of the primitives over the epochs, parameter-free ones at the bottom."""
    by_epoch = [shares(genotype) for genotype in genotypes.values()]
    styles = drawing.line_styles({primitive for found in by_epoch for primitive in found})
    ordered = sorted(styles, key=lambda primitive: primitive not in PARAMETER_FREE)
    return [
        {
            "type": "bar",
            "name": primitive,
            "x": list(genotypes),
            "y": [found.get(primitive) for found in by_epoch],
            "marker": {"color": styles[primitive][0]},
        }
        for primitive in ordered
    ]


# ---------------------------------------------------------------- files


def _read_object(path: Path) -> dict:
    """The JSON object in a file, empty if the file is not there."""
    if not path.exists():
        return {}
    found = read_json(path, "File")
    if not isinstance(found, dict):
        raise UserError(f"File {path} must hold one JSON object.")
    return found


def _by_epoch(directory: Path, suffix: str) -> list[tuple[int, Path]]:
    """The files `epoch_<number><suffix>` of a directory, by number."""
    found = []
    for path in directory.glob(f"epoch_*{suffix}"):
        number = path.stem.removeprefix("epoch_")
        if number.isdecimal():
            found.append((int(number), path))
    return sorted(found)


def _read_genotypes(directory: Path) -> dict[int, Genotype]:
    """The genotypes by epoch, all with the same number of distinct cells."""
    genotypes = {}
    for epoch, path in _by_epoch(directory, ".json"):
        genotypes[epoch] = Genotype.load(path)
        found, first = (len(g.genes) for g in (genotypes[epoch], next(iter(genotypes.values()))))
        if found != first:
            raise UserError(
                f"Genotype file {path} has {found} distinct cells, but that of the first epoch has "
                f"{first}: they are of different runs."
            )
    return genotypes


def _read_probabilities(workdir: Path, config, genotypes, primitives) -> dict[int, np.ndarray]:
    """The probabilities by epoch; of the last epoch only, where a run has kept no others."""
    paths = dict(_by_epoch(workdir / "alphas", ".npy"))
    final = workdir / "alphas.npy"
    if not paths and genotypes and final.exists():
        paths = {max(genotypes): final}
    softmax = config.get("search.relaxation") == "softmax"
    return {
        epoch: _probabilities(path, genotypes[epoch], primitives, softmax)
        for epoch, path in paths.items()
        if epoch in genotypes and primitives
    }


def _probabilities(path: Path, genotype: Genotype, primitives, softmax: bool) -> np.ndarray:
    try:
        alphas = np.load(path, allow_pickle=False)
    except Exception as error:  # a broken file raises one of many
        raise UserError(f"Alphas {path} cannot be read: {error}") from error
    shape = len(genotype.genes), num_edges(genotype.num_nodes), len(primitives)
    if not isinstance(alphas, np.ndarray) or alphas.shape != shape or alphas.dtype.kind != "f":
        raise UserError(f"Alphas {path} must be real numbers of the shape {shape}.")
    alphas = alphas.astype(np.float64)
    if softmax:
        exponentials = np.exp(alphas - alphas.max(-1, keepdims=True))
        return exponentials / exponentials.sum(-1, keepdims=True)
    return 1 / (1 + np.exp(-np.clip(alphas, -500, 500)))


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # JSON's integers have no end, and of one that no float can say nothing can be drawn.
    return value if is_number and abs(value) <= sys.float_info.max else None


def _numbers(values: Any) -> list[float]:
    """A list of numbers as it is; empty if it is none."""
    is_list = isinstance(values, list) and None not in map(_number, values)
    return values if is_list else []


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
