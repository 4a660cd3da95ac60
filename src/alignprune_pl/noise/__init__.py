"""Label noise: a data set's labels in, noisy labels and the mask of the wrong ones out."""

from alignprune_pl.noise.asymmetric import Asymmetric, asymmetric_noise, pair_flip_map
from alignprune_pl.noise.base import LabelledData, Noise
from alignprune_pl.noise.clean import Clean
from alignprune_pl.noise.given import Given
from alignprune_pl.noise.human import Human
from alignprune_pl.noise.instance import InstanceDependent, instance_noise
from alignprune_pl.noise.matrix import TransitionMatrix, matrix_noise, transition_matrix
from alignprune_pl.noise.pair_flip import PairFlip
from alignprune_pl.noise.symmetric import Symmetric, symmetric_noise

__all__ = [
    "Asymmetric",
    "Clean",
    "Given",
    "Human",
    "InstanceDependent",
    "LabelledData",
    "Noise",
    "PairFlip",
    "Symmetric",
    "TransitionMatrix",
    "asymmetric_noise",
    "instance_noise",
    "matrix_noise",
    "pair_flip_map",
    "symmetric_noise",
    "transition_matrix",
]
