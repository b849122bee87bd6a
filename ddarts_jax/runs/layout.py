"""The files of a workdir, by name. Whatever reads or writes one of them names it by this module."""

CONFIG = "config.json"  # of the run, see `facts.keep`
DATASET = "dataset.json"  # what a network must know of the data, likewise
VERSIONS = "versions.json"  # of what computed the run, likewise
METRICS = "metrics.jsonl"  # a line per epoch, see `metrics`
SECONDS = "seconds.json"  # of all starts, see `workdir.Clock`
SUMMARY = "summary.json"  # what the run found; there once it has ended
REPORT = "report.html"

SUPERNET = "supernet.json"  # what the axes of the alphas mean
ALPHAS = "alphas.npy"  # float32 [distinct cells, E, O]
GENOTYPE = "genotype.json"  # that the search found
START_GENOTYPE = "start_genotype.json"  # where a search from a network started

NETWORK_GENOTYPE = "network_genotype.json"  # of the trained network: expanded, if it was
NETWORK = "network.npz"  # its weights and statistics
NETWORK_SIZES = "network.json"  # its channels and stem, where there is no config
EVALUATION = "evaluation.json"  # on the test images, by class and by cell
