"""k-means, and starts that leave the unigram likelihood where random ones do not."""

import inspect
import sys

import pytest
import torch
from torch import Tensor

import pcircuits as pc
from pcircuits import learning
from tests.learning.small_models import fit, mean_log_prob

GRAMMAR = (  # the words of each class, and the class that follows
    ("the", "a", "this", "every"),
    ("old", "red", "tall", "quiet", "new"),
    ("house", "river", "teacher", "garden", "city", "engine"),
    ("sees", "likes", "finds", "leaves"),
)
VOCABULARY = sum(len(words) for words in GRAMMAR)


def unannotated(function):
    """As users call it: without the shape annotations that run in tests alone."""
    return inspect.unwrap(function)


def corpus(n: int, length: int = 12, seed: int = 0) -> Tensor:
    """Sentences of a regular grammar, cut anywhere: adjectives may be left out, words are drawn by rank (Zipf)."""
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *(len(words) for words in GRAMMAR)]).cumsum(0)
    kind = torch.randint(4, (n,), generator=generator)
    columns = []
    for _ in range(length):
        skip = (kind == 1) & (torch.rand(n, generator=generator) < 0.5)
        kind = torch.where(skip, 2, kind)
        sizes = torch.tensor([len(words) for words in GRAMMAR])[kind]
        rank = (sizes * torch.rand(n, generator=generator).square()).long()
        columns.append(offsets[kind] + rank)
        kind = (kind + 1) % 4
    return torch.stack(columns, 1)


def unigram_loss(train: Tensor, test: Tensor) -> float:
    counts = torch.bincount(train.flatten(), minlength=VOCABULARY).double() + 1
    return -float((counts / counts.sum()).log()[test].mean())


def test_bigram_start_beats_random_start() -> None:
    """Four states: EM from random parameters is still at the unigram entropy where the start is far below it."""
    train, test = corpus(400), corpus(200, seed=1)
    unigram = unigram_loss(train, test)
    started = learning.hmm_from_bigrams(train, 4, VOCABULARY, length=12, seed=0)
    random = pc.HMM(4, VOCABULARY, 12, seed=0)
    assert -mean_log_prob(started, test) / 12 < unigram - 0.4
    for circuit in (started, random):
        fit(circuit, train, epochs=4)
    assert -mean_log_prob(random, test) / 12 > unigram - 0.05
    assert -mean_log_prob(started, test) / 12 < unigram - 0.4


def test_states_are_the_word_classes() -> None:
    states = learning.states_from_bigrams(corpus(600), 4, VOCABULARY, seed=0)
    bounds = torch.tensor([len(words) for words in GRAMMAR]).cumsum(0).tolist()
    classes = [set(part.tolist()) for part in states.tensor_split(bounds[:-1])]
    assert all(len(found) == 1 for found in classes) and len(set.union(*classes)) == 4


def test_starts_are_reproducible() -> None:
    x = corpus(100)
    torch.manual_seed(3)
    first = learning.hmm_from_bigrams(x, 6, VOCABULARY, length=5, seed=2)
    torch.manual_seed(4)
    again = learning.hmm_from_bigrams(x, 6, VOCABULARY, length=5, seed=2)
    assert torch.equal(first.transition, again.transition) and first.length == 5


def test_more_states_than_types_remember_the_token_before() -> None:
    """A text whose next token depends on two tokens: 0 0 1 1 repeated. Only context states can follow it."""
    x = torch.tensor([[0, 0, 1, 1] * 4, [1, 1, 0, 0] * 4, [0, 1, 1, 0] * 4])
    states = learning.states_from_contexts(x, 4, 2, seed=0)
    assert states.shape == x.shape and states.max() < 4
    second_order = learning.hmm_from_states(x, states, 4, 2, length=16, smoothing=0.01)
    first_order = learning.hmm_from_bigrams(x, 2, 2, length=16, seed=0)
    assert mean_log_prob(second_order, x) > mean_log_prob(first_order, x) + 5


@pytest.mark.parametrize("num_states", [2, 9, VOCABULARY - 1, VOCABULARY, VOCABULARY + 7, 4 * VOCABULARY, 3000])
def test_context_states_fit_any_number(num_states: int) -> None:
    """Every state belongs to one type alone or is a cluster of types, even where there are too few bigrams for all."""
    x = corpus(60)
    states = learning.states_from_contexts(x, num_states, VOCABULARY, seed=0)
    assert states.min() >= 0 and states.max() < num_states
    hmm = learning.hmm_from_states(x, states, num_states, VOCABULARY, length=3)
    assert torch.isfinite(hmm.log_prob(x[:4, :3]).detach()).all()
    if num_states >= 2 * VOCABULARY:
        types = torch.stack([torch.bincount(states[x == v], minlength=num_states) > 0 for v in range(VOCABULARY)])
        assert (types.sum(0) <= 1).all()


def test_counts_are_the_probabilities() -> None:
    tokens, states = torch.tensor([[0, 1, 2], [0, 2, 1]]), torch.tensor([[0, 1, 1], [0, 1, 0]])
    hmm = learning.hmm_from_states(tokens, states, 3, 3, length=3, smoothing=0.0, initial="first")
    usual = (torch.tensor([3.0, 3.0, 0.0]) + 1) / 9
    assert torch.allclose(hmm.initial, torch.tensor([1.0, 0.0, 0.0]))
    assert torch.allclose(hmm.transition, torch.stack([torch.tensor([0, 1.0, 0]), torch.tensor([0.5, 0.5, 0]), usual]))
    assert torch.allclose(hmm.emission[:2], torch.tensor([[2, 1, 0], [0, 1, 2]]) / 3)
    assert (hmm.transition[0, 0], hmm.emission[1, 0]) == (0, 0)
    anywhere = learning.hmm_from_states(tokens, states, 3, 3, length=3, smoothing=0.0)
    assert torch.allclose(anywhere.initial, torch.tensor([0.5, 0.5, 0.0]))
    smooth = learning.hmm_from_states(tokens, states, 3, 3, length=3, smoothing=2.0)
    assert torch.allclose(smooth.transition[1], (torch.tensor([1.0, 1.0, 0.0]) + 2 * usual) / 4)
    assert all((table > 0).all() for table in (smooth.initial, smooth.transition, smooth.emission))
    assert all(group.support is None for group in smooth.groups.values())


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda x: learning.states_from_bigrams(x, 5, 4), pc.ParameterError),
        (lambda x: learning.states_from_bigrams(x, 0, 4), pc.ParameterError),
        (lambda x: learning.states_from_bigrams(x, 2, 3), pc.DataError),
        (lambda x: learning.states_from_bigrams(x[:0], 2, 4), pc.DataError),
        (lambda x: unannotated(learning.states_from_bigrams)(x.float(), 2, 4), pc.ShapeError),
        (lambda x: unannotated(learning.states_from_bigrams)(x[0], 2, 4), pc.ShapeError),
        (lambda x: learning.states_from_contexts(x, 2, 4, context_share=1.0), pc.ParameterError),
        (lambda x: unannotated(learning.hmm_from_states)(x, x[:, 1:], 4, 4, length=2), pc.ShapeError),
        (lambda x: learning.hmm_from_states(x, x, 3, 4, length=2), pc.DataError),
        (lambda x: learning.hmm_from_states(x, -x, 4, 4, length=2), pc.DataError),
        (lambda x: learning.hmm_from_states(x, x, 4, 4, length=2, smoothing=-1.0), pc.ParameterError),
    ],
)
def test_bad_sequences(call, error: type[Exception]) -> None:
    with pytest.raises(error):
        call(torch.tensor([[0, 1, 2], [3, 1, 0]]))


def blobs(n: int = 300, k: int = 5) -> tuple[Tensor, Tensor]:
    centres = 20 * torch.nn.functional.one_hot(torch.arange(k), 8).float()
    labels = torch.arange(n) % k
    return centres[labels] + 0.3 * torch.randn(n, 8), labels


def test_kmeans_finds_blobs() -> None:
    points, labels = blobs()
    found = learning.kmeans(points, 5, seed=0)
    assert torch.equal(found.labels[:5].sort().values, torch.arange(5))
    assert torch.equal(found.labels[:5][labels], found.labels)
    assert found.inertia == pytest.approx(8 * 0.09, rel=0.1)
    means = torch.stack([points[found.labels == k].mean(0) for k in range(5)])
    assert torch.allclose(found.centres, means, atol=1e-4)


def test_kmeans_labels_are_the_nearest_centres(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fitted on a sample, assigned in chunks of a few rows."""
    monkeypatch.setattr(sys.modules["pcircuits.learning.kmeans"], "_CHUNK_ELEMENTS", 70)
    points = torch.randn(500, 4)
    found = learning.kmeans(points, 7, seed=0, points_per_cluster=16)
    distances = torch.cdist(points, found.centres)
    assert torch.equal(found.labels, distances.argmin(-1))
    assert found.inertia == pytest.approx(float(distances.min(-1).values.square().mean()), rel=1e-4)


def test_kmeans_weights_are_repetitions_and_zeros_do_not_pull() -> None:
    points, _ = blobs(100)
    far = torch.full((1, 8), 1e3)
    weights = torch.cat([torch.ones(100), torch.zeros(1)])
    found = learning.kmeans(torch.cat([points, far]), 5, seed=0, weights=weights)
    assert found.centres.abs().max() < 100
    doubled = learning.kmeans(points, 5, seed=0, weights=torch.full((100,), 2.0))
    assert torch.allclose(doubled.centres, learning.kmeans(points, 5, seed=0).centres, atol=1e-4)


@pytest.mark.parametrize("num_clusters", [1, 3, 4, 10])
def test_kmeans_with_fewer_distinct_points_than_clusters(num_clusters: int) -> None:
    points = torch.tensor([[0.0], [1.0], [2.0]]).repeat_interleave(4, 0)
    found = learning.kmeans(points, num_clusters, seed=0)
    assert torch.isfinite(found.centres).all() and found.labels.max() < num_clusters
    assert num_clusters < 3 or found.inertia < 1e-6


def test_kmeans_fills_empty_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    """All centres start at one place; those that have no points move on until each of six far points has its own."""
    start = lambda x, w, num_clusters, generator: torch.zeros(num_clusters, 1)  # noqa: E731
    monkeypatch.setattr(sys.modules["pcircuits.learning.kmeans"], "_plus_plus", start)
    points = torch.tensor([[0.0], [100.0], [200.0], [300.0], [400.0], [500.0]]).repeat_interleave(30, 0)
    assert learning.kmeans(points, 6, seed=0).inertia < 1.0


@pytest.mark.parametrize(
    ("points", "k", "weights", "error"),
    [
        (torch.zeros(3, 2), 4, None, pc.DataError),
        (torch.zeros(3, 2), 0, None, pc.ParameterError),
        (torch.zeros(3, 2).long(), 1, None, pc.ShapeError),
        (torch.zeros(3), 1, None, pc.ShapeError),
        (torch.full((3, 2), torch.nan), 1, None, pc.DataError),
        (torch.zeros(3, 2), 1, torch.zeros(3), pc.DataError),
        (torch.zeros(3, 2), 1, -torch.ones(3), pc.DataError),
        (torch.zeros(3, 2), 1, torch.ones(2), pc.ShapeError),
    ],
)
def test_kmeans_bad_input(points: Tensor, k: int, weights: Tensor | None, error: type[Exception]) -> None:
    with pytest.raises(error):
        unannotated(learning.kmeans)(points, k, weights=weights)
