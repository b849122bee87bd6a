"""A run as recorded in its workdir: config, metrics, genotypes, probabilities and results."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ddarts_jax import configuration
from ddarts_jax.errors import UserError
from ddarts_jax.files import read_json
from ddarts_jax.genotypes import derivation
from ddarts_jax.genotypes.genotype import Genotype, num_edges
from ddarts_jax.genotypes.spaces import SPACES, STRENGTH, is_candidate
from ddarts_jax.runs import layout, metrics, rows


@dataclasses.dataclass(frozen=True)
class Run:
    """The files of a workdir; a missing file is empty or None.

    Attributes:
        workdir: folder of the run.
        config: {dotted key: value}.
        search: rows of the search's metrics, one per epoch; of a search in stages, of its last stage.
        earlier: rows of the stages before it, the first stage first; else empty.
        train: rows of the training's metrics, one per epoch.
        candidates: rows of a random search's metrics, one per candidate.
        detect: rows of a detector's metrics, one per epoch.
        genotypes: {epoch of the search: parsed genotype}, ascending.
        probabilities: {epoch: float [distinct cells, E, O]} of the `columns`.
        columns: what these are, empty if it is not known: the candidates of the search, then, of some
            methods, the edge's strength.
        relaxation: how alphas become probabilities: "sigmoid", or by a softmax; of "groups" over those
            of two groups, of "balance" over the two that are left.
        network: genotype that is trained, or the newest genotype of the search.
        evaluation: content of `evaluation.json`.
        detection: content of `detection.json`.
        summary: content of `summary.json`, which exists once the run has ended.
        versions: content of `versions.json`.
        data: content of `dataset.json`.
        parsing: section `parse` by which the genotypes of the epochs were derived; empty: unknown.
    """

    workdir: Path
    config: dict[str, Any]
    search: list[dict]
    earlier: list[dict]
    train: list[dict]
    candidates: list[dict]
    detect: list[dict]
    genotypes: dict[int, Genotype]
    probabilities: dict[int, np.ndarray]
    columns: tuple[str, ...]
    relaxation: str
    network: Genotype | None
    evaluation: dict
    detection: dict
    summary: dict
    versions: dict
    data: dict
    parsing: dict

    @property
    def name(self) -> str:
        """Name of the workdir."""
        return self.workdir.resolve().name

    @property
    def newest(self) -> Genotype | None:
        """The newest parsed genotype of the search."""
        return next(reversed(self.genotypes.values()), None)

    @property
    def is_detector(self) -> bool:
        """Whether it is the run of a detector."""
        return self.config.get("task") == "detect"

    @property
    def latency(self) -> float | None:
        """Milliseconds for a batch of one image, if task `evaluate` has measured them."""
        speed = self.evaluation.get("speed")
        measured = (
            [row for row in speed if isinstance(row, dict)] if isinstance(speed, list) else []
        )
        found = [row.get("milliseconds") for row in measured if row.get("batch_size") == 1]
        return rows.number(found[0]) if found else None

    def rows(self, phase: str) -> list[dict]:
        """Returns the rows of phase "search", "random", "train" or "detect"."""
        return {
            "search": self.search,
            "random": self.candidates,
            "train": self.train,
            "detect": self.detect,
        }[phase]

    def rows_of_all_stages(self, phase: str) -> list[dict]:
        """Returns the rows of a phase, of a search in stages those of all stages.

        They tell what the phase took. Its curves and results are those of the last stage alone, as each
        stage trains a supernet of its own, whose epochs count from 1.
        """
        return [*(self.earlier if phase == "search" else ()), *self.rows(phase)]

    def outcome(self, key: str) -> float | None:
        """Returns a number of the summary, None if it has no such number."""
        return rows.number(self.summary.get(key))


def read_run(workdir: str | Path) -> Run:
    """Reads the workdir of a run, finished or not.

    Raises:
        UserError: the folder does not contain a run, or one of its files is corrupt.
    """
    workdir = Path(workdir)
    path = workdir / layout.METRICS
    found = metrics.read(path) if path.exists() else []
    config = configuration.up_to_date(_read_object(workdir / layout.CONFIG))
    if not found and not config:
        raise UserError(f"There is no run in {workdir}: neither config.json nor metrics.jsonl.")
    genotypes = _read_genotypes(workdir / "genotypes")
    results = [workdir / name for name in (layout.NETWORK_GENOTYPE, layout.GENOTYPE)]
    networks = [Genotype.load(path) for path in results if path.exists()]
    # A run older than supernet.json used one of the methods and spaces of the package.
    former = "softmax" if config.get("search.method") == "darts" else "sigmoid"
    defaults = {
        "relaxation": former,
        "columns": list(SPACES.get(str(config.get("search.space")), ())),
        "parse": {},
    }
    described = _read_object(workdir / layout.SUPERNET)
    if "primitives" in described:  # before a method had other columns
        described = {"columns": described["primitives"]} | described
    supernet = defaults | described
    if any(type(supernet[key]) is not type(value) for key, value in defaults.items()) or not all(
        isinstance(name, str) for name in supernet["columns"]
    ):
        raise UserError(f"File {workdir / layout.SUPERNET} does not describe a supernet.")
    relaxation, columns = supernet["relaxation"], tuple(supernet["columns"])
    probabilities = _read_probabilities(
        workdir, relaxation, genotypes, columns, supernet.get("kept")
    )
    if not all(map(is_candidate, columns)):
        columns = (*filter(is_candidate, columns), STRENGTH)

    def of_phase(phase):
        return [row for row in found if row["phase"] == phase]

    return Run(
        workdir=workdir,
        config=config,
        search=of_phase("search"),
        earlier=_read_earlier(workdir / "stages"),
        train=of_phase("train"),
        candidates=of_phase("random"),
        detect=of_phase("detect"),
        genotypes=genotypes,
        probabilities=probabilities,
        columns=columns,
        relaxation=relaxation,
        network=next(iter([*networks, *reversed(genotypes.values())]), None),
        evaluation=_read_object(workdir / layout.EVALUATION),
        detection=_read_object(workdir / layout.DETECTION),
        summary=_read_object(workdir / layout.SUMMARY),
        versions=_read_object(workdir / layout.VERSIONS),
        data=_read_object(workdir / layout.DATASET),
        parsing=supernet["parse"],
    )


def _read_object(path: Path) -> dict:
    """Returns the JSON object in a file, empty if there is no such file."""
    if not path.exists():
        return {}
    found = read_json(path, "File")
    if not isinstance(found, dict):
        raise UserError(f"File {path} must contain one JSON object.")
    return found


def _read_earlier(directory: Path) -> list[dict]:
    """Returns the rows of a search's stages before the last, which are in folders named by number."""
    numbers = sorted(int(path.name) for path in directory.glob("*") if path.name.isdecimal())
    paths = [directory / str(number) / layout.METRICS for number in numbers]
    found = [row for path in paths if path.exists() for row in metrics.read(path)]
    return [row for row in found if row["phase"] == "search"]


def _by_epoch(directory: Path, suffix: str) -> list[tuple[int, Path]]:
    """Returns the files `epoch_<number><suffix>` of a directory, by number."""
    found = []
    for path in directory.glob(f"epoch_*{suffix}"):
        number = path.stem.removeprefix("epoch_")
        if number.isdecimal():
            found.append((int(number), path))
    return sorted(found)


def _read_genotypes(directory: Path) -> dict[int, Genotype]:
    """Returns the genotypes by epoch, all with the same number of distinct cells."""
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


def _read_probabilities(
    workdir: Path, relaxation, genotypes, columns, kept
) -> dict[int, np.ndarray]:
    """Returns the probabilities by epoch, or only the last epoch's if the run kept no others."""
    paths = dict(_by_epoch(workdir / "alphas", ".npy"))
    final = workdir / layout.ALPHAS
    if not paths and genotypes and final.exists():
        paths = {max(genotypes): final}
    return {
        epoch: _probabilities(path, genotypes[epoch], columns, relaxation, kept)
        for epoch, path in paths.items()
        if epoch in genotypes and columns
    }


def _probabilities(path: Path, genotype: Genotype, columns, relaxation: str, kept) -> np.ndarray:
    """Returns the candidates' probabilities, [distinct cells, E, O], from the alphas in a file.

    Where edges have strengths, these follow as one more column.
    """
    try:
        alphas = np.load(path, allow_pickle=False)
    except Exception as error:  # a corrupt file raises one of many
        raise UserError(f"Alphas {path} cannot be read: {error}.") from error
    shape = len(genotype.genes), num_edges(genotype.num_nodes), len(columns)
    if not isinstance(alphas, np.ndarray) or alphas.shape != shape or alphas.dtype.kind != "f":
        raise UserError(f"Alphas {path} must be real numbers of the shape {shape}.")
    alphas = alphas.astype(np.float64)
    candidates = list(filter(is_candidate, columns))
    own, further = np.split(alphas, [len(candidates)], axis=-1)
    pairs = STRENGTH not in columns
    if not candidates or further.shape[-1] not in (0, genotype.num_nodes if pairs else 1):
        raise UserError(f"File {layout.SUPERNET} of alphas {path} does not describe their columns.")
    if kept is not None:
        own = np.where(_mask(kept, own.shape, path), own, -np.inf)
    match relaxation:
        case "sigmoid":
            shares = _sigmoid(own)
        case "groups":
            shares = derivation.softmax_in_groups(own, candidates)
        case "balance" | "pairs":  # at a temperature of 1; the latter in older runs
            shares = derivation.softmax(own / derivation.BALANCE_TEMPERATURE)
        case _:
            shares = derivation.softmax(own)
    if not further.size:
        return shares
    strong = derivation.pair_strengths(further) if pairs else derivation.strengths(further[..., 0])
    return np.concatenate([shares, strong[..., None]], -1)


def _mask(kept, shape, path: Path) -> np.ndarray:
    """Returns the candidates that every edge has, bool of the shape of their alphas."""
    try:
        mask = np.array(kept, bool)
    except ValueError:  # of lists of different lengths
        mask = np.zeros(())
    if mask.shape != shape or not mask.any(-1).all():
        raise UserError(
            f"File {layout.SUPERNET} of alphas {path} must say of {shape} candidates which are kept, "
            "at least one on every edge."
        )
    return mask


def _sigmoid(logits):
    return 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
