"""A run in words: its progress, its findings, and warnings."""

from collections import Counter
from statistics import median

from ddarts_jax.genotypes.effect import without_effect, working
from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.reports.cells import cell_names
from ddarts_jax.runs import rows
from ddarts_jax.runs.run import Run

PARAMETER_FREE = ("max_pool_3x3", "avg_pool_3x3", "skip_connect")
_OUTBURST = 10  # times the gradient of the cross-entropy; later it is about as large


def findings(run: Run) -> list[str]:
    """Returns the first sentences of the report: the run's progress and findings."""
    sentences = [_progress(run), *_accuracies(run)]
    moved = rows.last(run.search, "distance_to_start")
    if moved is not None:
        start = (run.config.get("search.start.genotype") or "its start")[:200]
        sentences.append(f"The genotype's distance to {start} is {moved:.4f}.")
    if earlier := len(list((run.workdir / "stages").glob("[0-9]*"))):
        sentences.append(
            f"The search had {earlier + 1} stages: this page shows the last one; the others are in the "
            "folder stages."
        )
    if run.network:
        sentences.append(_kept(run.network))
    return sentences


def warnings(run: Run) -> list[str]:
    """Returns a sentence on everything about the network found that should not be so."""
    if not run.network or run.is_detector:  # a search ends elsewhere
        return []
    sentences = []
    free = parameter_free_share(run.network)
    if free is not None and free > 0.5:
        sentences.append(
            f"Parameter-free primitives take over: {free:.0%} of the kept primitives are pools and skip "
            "connections. This is the usual sign of collapse: the search favours operations without "
            "parameters."
        )
    sentences += without_effect(run.network) + _climbing(run) + _held_up(run)
    now = {key: run.config.get(f"parse.{key}") for key in run.parsing}
    if run.parsing != now:
        sentences.append(
            f"Only the result is parsed by {now}: the genotypes of the epochs and their discretisation "
            f"gaps are those of {run.parsing}."
        )
    names = cell_names(run.network)
    empty = [name for name, cell in zip(names, run.network.genes) if not cell]
    if empty and run.summary:  # before the end alphas may still pass the threshold
        sentences.append(
            f"Nothing is kept in {', '.join(empty)}: no candidate there reaches the threshold of the "
            "parsing."
        )
    return sentences


def _climbing(run: Run) -> list[str]:
    """Says which cells' alphas have mostly climbed the cross-entropy."""
    climbing = []
    for cell, name in enumerate(cell_names(run.newest) if run.newest else ()):
        if not rows.num_cells(run.search, "factor_full"):
            break
        factors = [f for f in rows.series(run.search, "factor_full", cell) if f is not None]
        if sum(factor < 0 for factor in factors) > len(factors) / 2:
            climbing.append(name)
    if not climbing:
        return []
    return [
        f"In most epochs the alphas of {', '.join(climbing)} climbed the cross-entropy: the ablation "
        "loss there counts the full network's gradient negatively."
    ]


def _held_up(run: Run) -> list[str]:
    """Says that an early outburst of the ablation loss made all later steps of the alphas small."""
    decided = rows.last(run.search, "decided")
    fixed = int(rows.number(run.config.get("search.warmup_epochs")) or 0)
    first = next((row for row in run.search if row["epoch"] > fixed), None)
    if first is None or decided is None or decided > 0.5:
        return []
    cells = range(rows.num_cells([first], "gradient_norm_ablation"))
    norms = ("gradient_norm_ablation", "gradient_norm_cross_entropy")
    pairs = [[rows.series([first], norm, cell)[0] for norm in norms] for cell in cells]
    times = [ablation / entropy for ablation, entropy in pairs if ablation and entropy]
    if not times or median(times) < _OUTBURST:
        return []
    return [
        f"In epoch {first['epoch']} the ablation loss, which divides by a mean contribution that is near "
        f"0 at first, had {median(times):.0f} times the gradient of the cross-entropy (median of the "
        "cells). Adam remembers it for a thousand steps, in which the alphas hardly move: "
        f"{decided:.0%} of the candidates are decided. Try search.warmup_epochs={fixed + 1} or more."
    ]


def shares(genotype: Genotype) -> dict[str, float]:
    """Returns each primitive's share of the kept primitives; empty if none is kept."""
    counts = Counter(primitive for cell in genotype.genes for primitive, _, _ in working(cell))
    return {primitive: count / counts.total() for primitive, count in counts.items()}


def parameter_free_share(genotype: Genotype) -> float | None:
    """Returns the share of pools and skip connections, None if no primitive is kept."""
    found = shares(genotype)
    return sum(found.get(primitive, 0.0) for primitive in PARAMETER_FREE) if found else None


def duration(seconds: float) -> str:
    """Formats a time as seconds, minutes and seconds, or hours and minutes."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _progress(run: Run) -> str:
    """Says how far the run has come."""
    if run.summary:
        seconds = run.outcome("seconds")
        compiling = run.outcome("compile_seconds")
        took = f" after {duration(seconds)} in all its starts" if seconds is not None else ""
        note = f", of which {duration(compiling)} went into compiling" if took and compiling else ""
        return f"The run has ended{took}{note}."
    phases = (("detect", "detector's training"), ("train", "training"), ("search", "search"))
    for phase, name in phases:
        if own := run.rows(phase):
            section = "train" if phase == "detect" else phase
            epochs = [run.config.get(f"{section}.epochs")]
            if phase == "search" and run.config.get("search.start.genotype"):
                epochs.append(run.config.get("search.start.epochs"))
            planned = f" of {sum(epochs)}" if all(isinstance(e, int) for e in epochs) else ""
            return f"The run has not ended: epoch {own[-1]['epoch']}{planned} of the {name}."
    if run.candidates:
        count = run.config.get("search.random.candidates")
        planned = f" of {count}" if isinstance(count, int) else ""
        number = run.candidates[-1]["epoch"]
        return f"The run has not ended: candidate {number}{planned} of the random search."
    return "The run has no finished epoch yet."


def _accuracies(run: Run) -> list[str]:
    """Says how accurate network and supernet are, or the detector."""
    sentences, cost = [], _cost(run)
    if run.is_detector:
        ap, so_far = run.outcome("box_ap"), rows.last(run.detect, "box_ap")
        if ap is not None:
            masks = run.outcome("mask_ap")
            said = "" if masks is None else f" and a mask AP of {100 * masks:.1f}"
            return [
                f"The detector reaches a box AP of {100 * ap:.1f}{said} on the test images{cost}."
            ]
        if so_far is not None:
            return [f"The detector has reached a box AP of {100 * so_far:.1f} so far."]
        return []
    accuracy, tested = run.outcome("test_accuracy"), rows.last(run.train, "accuracy")
    if accuracy is not None:
        sentences.append(f"The network found reaches {accuracy:.2%} on the test images{cost}.")
    elif tested is not None:
        sentences.append(f"The network has reached {tested:.2%} on the test images so far.")
    elif cost and not run.train:
        sentences.append(f"The network found was not trained here{cost}.")
    supernet = rows.last(run.search, "accuracy")
    if supernet is not None:
        decided = rows.last(run.search, "decided")
        ending = "." if decided is None else f", and {decided:.0%} of the candidates were decided."
        sentences.append(
            f"In the search's last epoch the supernet was right on {supernet:.1%} of the images that "
            f"the architecture learns from{ending}"
        )
    gap = rows.last(run.search, "discretisation_gap")
    if gap is not None:
        masked = rows.last(run.search, "discrete_accuracy")
        sentences.append(
            f"With only the kept primitives that supernet is right on {masked:.1%} of images that the "
            f"architecture learns from instead of {masked + gap:.1%}: the discretisation gap."
        )
    return sentences


def _cost(run: Run) -> str:
    """Says what the network costs, as the end of a sentence; empty if that is unknown."""
    params, macs = run.outcome("params"), run.outcome("macs")
    if params is None or macs is None:
        return ""
    return f"; it has {params:,.0f} parameters and takes {macs / 1e6:,.2f} million MACs per image"


def _kept(genotype: Genotype) -> str:
    """Says how many primitives the network keeps."""
    kept = sum(len(working(cell)) for cell in genotype.cells)
    free = parameter_free_share(genotype)
    if free is None:
        return "No cell of the network keeps a primitive."
    count = genotype.num_cells
    keeper = f"The network's {count} cells keep" if count > 1 else "The network's single cell keeps"
    return f"{keeper} {kept} primitives, {free:.0%} of them parameter-free."
