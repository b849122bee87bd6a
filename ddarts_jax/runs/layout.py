"""The names of the files in a workdir. All code that reads or writes them uses these constants.

`facts.keep` writes the first four, `metrics` the fifth and `workdir.Clock` the sixth. The comments are
what the page on these files says of them.
"""

CONFIG = "config.json"  # the whole config of the run
DATASET = "dataset.json"  # what a network must know of its data
TRAINING_IMAGES = "training_images.npy"  # hashes of the images that it has learnt
VERSIONS = "versions.json"  # packages and devices that computed the run
METRICS = "metrics.jsonl"  # every number of every epoch, one line per epoch
SECONDS = "seconds.json"  # time of all starts together
SUMMARY = "summary.json"  # results of the run; exists once it has ended
REPORT = "report.html"  # all of the run on one page, also while it runs
SLIDE = "slide.png"  # the run on one picture for a talk; exists once it has ended

SUPERNET = "supernet.json"  # meaning of the axes of the alphas
REMOVALS = "removals.npy"  # what removals add to the loss, float32 [distinct cells, E, O + 1]
ALPHAS = "alphas.npy"  # those after the last epoch, float32 [distinct cells, E, columns]
GENOTYPE = "genotype.json"  # result of the search
START_GENOTYPE = "start_genotype.json"  # starting point of a search from a network

NETWORK_GENOTYPE = "network_genotype.json"  # genotype of the trained network, possibly expanded
NETWORK = "network.npz"  # weights and statistics of the trained network
NETWORK_SIZES = "network.json"  # channels and stem of the trained network, if there is no config
EVALUATION = "evaluation.json"  # results on the test images, by class and by cell
OTHER_EVALUATION = "evaluation-{}.json"  # results on other data, by their name

DETECTOR = "detector.npz"  # weights and statistics of a detector
DETECTION = "detection.json"  # how well it finds the objects of the test images
DETECTIONS = "detections.json"  # what it finds there, in COCO's format

EXPORT_WEIGHTS = "weights.safetensors"  # of an export: weights and statistics
EXPORT_META = "meta.json"  # of an export: preprocessing, class names, sizes of the network
