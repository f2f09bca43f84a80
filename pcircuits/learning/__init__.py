"""From expected counts or gradients to new parameters: learners, the loop that drives them, and starts for HMMs."""

from pcircuits.learning.adam import Adam
from pcircuits.learning.anemone import Anemone
from pcircuits.learning.batches import BatchStream
from pcircuits.learning.cutset_network import cutset_network
from pcircuits.learning.distributed import all_reduce, join, place, share, wait
from pcircuits.learning.em import EM, MiniBatchEM
from pcircuits.learning.entropy_regularised import EntropyRegularised
from pcircuits.learning.fit import LEARNERS, fit
from pcircuits.learning.grow import grow
from pcircuits.learning.history import Epoch, History
from pcircuits.learning.hmm_start import hmm_from_bigrams, hmm_from_states, states_from_bigrams, states_from_contexts
from pcircuits.learning.kmeans import KMeans, kmeans
from pcircuits.learning.learn_spn import learn_spn
from pcircuits.learning.learner import Batch, Learner, Score, StatisticsLearner
from pcircuits.learning.prometheus import prometheus
from pcircuits.learning.prune import Pruned, prune
from pcircuits.learning.shards import TokenShards, write_shards

__all__ = [
    "EM",
    "LEARNERS",
    "Adam",
    "Anemone",
    "Batch",
    "BatchStream",
    "EntropyRegularised",
    "Epoch",
    "History",
    "KMeans",
    "Learner",
    "MiniBatchEM",
    "Pruned",
    "Score",
    "StatisticsLearner",
    "TokenShards",
    "all_reduce",
    "cutset_network",
    "fit",
    "grow",
    "hmm_from_bigrams",
    "hmm_from_states",
    "join",
    "kmeans",
    "learn_spn",
    "place",
    "prometheus",
    "prune",
    "share",
    "states_from_bigrams",
    "states_from_contexts",
    "wait",
    "write_shards",
]
