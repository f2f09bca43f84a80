"""What decomposes: region graphs and their builders."""

from pcircuits.structures.binary_tree import binary_tree
from pcircuits.structures.chain import chain
from pcircuits.structures.chow_liu import chow_liu, chow_liu_tree
from pcircuits.structures.factorized import factorized
from pcircuits.structures.from_networkx import from_networkx
from pcircuits.structures.generalized_hmm import generalized_hmm
from pcircuits.structures.grouped import grouped
from pcircuits.structures.hclt import hclt
from pcircuits.structures.latent_tree import latent_tree
from pcircuits.structures.mutual_information import mutual_information
from pcircuits.structures.nested import nested
from pcircuits.structures.poon_domingos import poon_domingos
from pcircuits.structures.quad_graph import quad_graph
from pcircuits.structures.quad_tree import quad_tree
from pcircuits.structures.random_tree import random_binary_tree, random_latent_tree
from pcircuits.structures.rat import rat
from pcircuits.structures.region_graph import Partition, Region, RegionGraph
from pcircuits.structures.templates import image, sequence, table
from pcircuits.structures.tensor_train import tensor_train

__all__ = [
    "Partition",
    "Region",
    "RegionGraph",
    "binary_tree",
    "chain",
    "chow_liu",
    "chow_liu_tree",
    "factorized",
    "from_networkx",
    "generalized_hmm",
    "grouped",
    "hclt",
    "image",
    "latent_tree",
    "mutual_information",
    "nested",
    "poon_domingos",
    "quad_graph",
    "quad_tree",
    "random_binary_tree",
    "random_latent_tree",
    "rat",
    "sequence",
    "table",
    "tensor_train",
]
