"""Label noise: clean labels in, noisy labels and the mask of the wrong ones out."""

from alignprune_pl.noise.asymmetric import Asymmetric, asymmetric_noise, pair_flip_map
from alignprune_pl.noise.base import Noise
from alignprune_pl.noise.clean import Clean
from alignprune_pl.noise.symmetric import Symmetric, symmetric_noise

__all__ = ["Asymmetric", "Clean", "Noise", "Symmetric", "asymmetric_noise", "pair_flip_map", "symmetric_noise"]
