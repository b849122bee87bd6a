"""The public API: what `import ddarts_jax as dd` offers, and where it is defined."""

from .api import SearchResult as SearchResult
from .api import build as build
from .api import config as config
from .api import evaluate as evaluate
from .api import import_weights as import_weights
from .api import load_data as load_data
from .api import preprocess as preprocess
from .api import register_method as register_method
from .api import register_primitive as register_primitive
from .api import search as search
from .api import train as train
from .configuration import based_on as based_on
from .configuration import default_config as default_config
from .configuration import detection_config as detection_config
from .configuration import without_augmentation as without_augmentation
from .data.dataset import Dataset as Dataset
from .errors import UserError as UserError
from .genotypes.distance import architecture_distance as architecture_distance
from .genotypes.distance import edge_distance as edge_distance
from .genotypes.distance import positional_distance as positional_distance
from .genotypes.genotype import Genotype as Genotype
from .genotypes.genotype import encode as encode
from .genotypes.genotype import parse as parse
from .genotypes.handcrafted import HANDCRAFTED as HANDCRAFTED
from .genotypes.spaces import SPACES as SPACES
from .models.cost import cost as cost
from .models.cost import cost_table as cost_table
from .models.layers import BatchNorm as BatchNorm
from .models.layers import ConvBN as ConvBN
from .reports.cells import draw_genotype as draw_genotype
from .runs.callbacks import Callback as Callback
from .searching.contributions import contributions as contributions
from .searching.method import Method as Method
from .training.trained import Network as Network
from .training.trained import load_network as load_network

__version__: str
