"""The picture of a run for a talk."""

import pytest
import synthetic
from matplotlib.figure import Figure
from PIL import Image

from ddarts_jax.genotypes.genotype import Genotype
from ddarts_jax.reports import slide
from ddarts_jax.reports.cells import draw_genotype
from ddarts_jax.runs.run import read_run


@pytest.fixture
def shown(monkeypatch):
    """The texts of every picture that is saved."""
    texts, save = [], Figure.savefig

    def saving(figure, *arguments, **options):
        texts[:] = [text.get_text() for text in figure.texts]
        texts.extend(axes.get_title("left") for axes in figure.axes)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", saving)
    return texts


@pytest.mark.parametrize(
    "phases, titles",
    [
        ({}, ["Search: accuracy on the alphas' images, %", "Training: accuracy, %"]),
        ({"train_epochs": 0}, ["Search: accuracy on", "Primitives of the network, %"]),
    ],
)
def test_the_picture_of_a_run(tmp_path, shown, phases, titles):
    """1920 x 1080 pixels, with what the network is worth and costs, and the curves that there are."""
    run = synthetic.write_run(tmp_path / "run", **phases)
    draw_genotype(Genotype.load(run / "genotype.json"), run / "genotype")
    slide.draw(read_run(run), run / "genotype.png", run / "slide.png")
    with Image.open(run / "slide.png") as image:
        assert image.size == (1920, 1080)
    heading, numbers, *found = shown
    assert heading == "ddarts search on digits"
    assert ("of the test images right" in numbers) == (not phases) and "M parameters" in numbers
    assert all(each.startswith(title) for each, title in zip(found, titles))
