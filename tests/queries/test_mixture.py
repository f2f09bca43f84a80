"""A mixture of circuits is the mixture of their distributions, whatever their structures."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits import testing


@settings(max_examples=12)
@given(st.data())
def test_every_query_of_a_mixture_is_that_of_the_mixed_distribution(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 4))
    structures = [s for s in testing.STRUCTURES if s != "chow_liu"]
    circuits = [
        testing.example_circuit(
            data.draw(st.sampled_from(structures)),
            data.draw(st.sampled_from(testing.LAYERS)),
            num_variables=size,
            num_units=data.draw(st.integers(1, 3)),
            seed=n,
            dtype=torch.float64,
        )
        for n in range(data.draw(st.integers(1, 3)))
    ]
    shares = torch.rand(len(circuits), dtype=torch.float64) + 0.1
    mixed, worlds = pc.mixture(circuits, shares), testing.worlds(circuits[0])
    each = torch.stack([circuit.log_prob(worlds) for circuit in circuits])
    joint = (each + (shares / shares.sum()).log().unsqueeze(1)).logsumexp(0)
    assert torch.allclose(mixed.log_prob(worlds), joint, atol=1e-10)
    observed = torch.tensor([data.draw(st.lists(st.booleans(), min_size=size, max_size=size))])
    row = worlds[data.draw(st.integers(0, len(worlds) - 1))].unsqueeze(0)
    posterior = mixed.condition(pc.Evidence(row, observed=observed))
    agrees = ((worlds == row) | ~observed).all(1)
    conditional = torch.where(agrees, joint, -torch.inf) - joint[agrees].logsumexp(0)
    assert torch.allclose(posterior.log_evidence, joint[agrees].logsumexp(0), atol=1e-10)
    assert torch.allclose(posterior.log_prob(worlds.unsqueeze(1))[:, 0].exp(), conditional.exp(), atol=1e-10)
    one_hot = torch.nn.functional.one_hot(worlds, 3).double()
    want = torch.einsum("w, w d v -> d v", conditional.exp(), one_hot)
    assert torch.allclose(posterior.marginals()[0], want, atol=1e-10)
    found = posterior.mpe()
    place = (worlds == found.values[0]).all(1).nonzero().item()
    assert agrees[place] and found.log_prob.item() == pytest.approx(conditional[place].item(), abs=1e-9)
    draws = posterior.sample(50, generator=torch.Generator().manual_seed(0))[:, 0]
    assert ((draws == row) | ~observed).all()


def test_components_keep_their_parameters_and_ties() -> None:
    hmm = pc.HMM(num_states=3, num_categories=2, length=4, seed=0)
    tree = pc.Circuit(pc.structures.binary_tree(4), pc.Categorical(2), num_units=2, seed=1)
    mixed = pc.mixture([hmm, tree])
    assert mixed.num_parameters == hmm.num_parameters + tree.num_parameters + 2
    assert torch.allclose(mixed.shares, torch.tensor([0.5, 0.5]))
    worlds = testing.worlds(mixed)
    before = mixed.log_prob(worlds)
    tree.maximise(tree.statistics(worlds[:3]))
    assert not torch.allclose(mixed.log_prob(worlds), before)
    assert mixed.log_prob(worlds).exp().sum().item() == pytest.approx(1.0, abs=1e-6)


def test_products_are_mixed_as_distributions() -> None:
    a, b = (testing.example_circuit("binary_tree", "cp", seed=n, dtype=torch.float64) for n in (1, 2))
    product = pc.multiply(a, b)
    twice = pc.mixture([product, pc.multiply(b, a)], [1.0, 2.0])
    worlds = testing.worlds(product)
    assert torch.allclose(twice.log_prob(worlds), product.log_prob(worlds), atol=1e-10)


@settings(max_examples=6)
@given(st.integers(1, 3), st.sampled_from(["cp", "cp-t", "tucker"]), st.integers(0, 999), st.booleans())
def test_a_mixture_of_squares_is_the_sum_of_squares(size: int, layer: str, seed: int, both_complex: bool) -> None:
    graphs = [pc.structures.binary_tree(size), pc.structures.chain(size)]
    dtypes = [torch.complex128, torch.complex128 if both_complex else torch.float64]
    signed = [
        pc.SignedCircuit(graph, pc.Categorical(2), num_units=2, layer=layer, seed=seed + n, dtype=dtype)
        for n, (graph, dtype) in enumerate(zip(graphs, dtypes, strict=True))
    ]
    mixed, worlds = pc.mixture([pc.square(c) for c in signed], [1.0, 3.0]), testing.worlds(signed[0])
    with torch.no_grad():
        squares = torch.stack([(2 * c.value(worlds).log_abs).exp() for c in signed])
        exact = torch.tensor([0.25, 0.75], dtype=torch.float64) @ (squares / squares.sum(1, keepdim=True))
    assert torch.allclose(mixed.log_prob(worlds).exp(), exact, atol=1e-10)
    assert mixed.log_partition().item() == 0.0
    observed = torch.arange(size).expand(len(worlds), size) < (seed % (size + 1))
    posterior = mixed.condition(pc.Evidence(worlds, observed=observed))
    agrees = ((worlds == worlds.unsqueeze(1)) | ~observed.unsqueeze(1)).all(-1)  # [row of evidence, world]
    joint = agrees * exact
    assert torch.allclose(posterior.log_evidence.exp(), joint.sum(1), atol=1e-10)
    conditional = joint / joint.sum(1, keepdim=True)
    want = torch.einsum("rw, wdv -> rdv", conditional, torch.nn.functional.one_hot(worlds, 2).double())
    assert torch.allclose(posterior.marginals(), want, atol=1e-8)
    draws = posterior.sample(2, generator=torch.Generator().manual_seed(seed))
    assert ((draws == worlds) | ~observed).all()


def test_a_mixture_of_squares_is_trained_multiplied_and_sampled() -> None:
    graph = pc.structures.factorized(2)
    squares = [pc.square(pc.SignedCircuit(graph, pc.Categorical(3), num_units=2, seed=n)) for n in (0, 1)]
    plain = pc.Circuit(graph, pc.Categorical(3), num_units=2, seed=2, dtype=torch.float64)
    mixed = pc.mixture([*squares, pc.multiply(plain, plain)])
    worlds, data = testing.worlds(mixed), torch.tensor([[0, 2], [1, 0], [2, 1]] * 4)
    before = float(mixed.log_prob(data).detach().mean())
    pc.fit(mixed, data, learner=pc.Adam(lr=0.2), epochs=4, batch_size=12, progress=False)
    mixed.requires_grad_(False)
    assert float(mixed.log_prob(data).mean()) > before + 0.1
    probabilities = mixed.log_prob(worlds).exp()
    assert float(probabilities.sum()) == pytest.approx(1.0, abs=1e-9)
    drawn = mixed.sample(1000, generator=torch.Generator().manual_seed(0))
    assert torch.allclose((drawn.unsqueeze(1) == worlds).all(-1).double().mean(0), probabilities, atol=0.07)
    want = (mixed.log_prob(worlds) + squares[0].log_prob(worlds)).softmax(0)
    assert torch.allclose(pc.multiply(mixed, squares[0]).log_prob(worlds).exp(), want, atol=1e-10)
    with pytest.raises(pc.StructureError, match="signed"):
        mixed.mpe()


def test_adam_trains_shares_and_components() -> None:
    circuits = [pc.Circuit(pc.structures.factorized(3), pc.Categorical(2), num_units=1, seed=n) for n in (0, 1)]
    mixed, data = pc.mixture(circuits), torch.tensor([[0, 0, 0], [1, 1, 1], [1, 1, 1]] * 4)
    history = pc.fit(mixed, data, learner=pc.Adam(lr=0.1), epochs=60, progress=False)
    assert history.train_loss[-1] < 0.75 < history.train_loss[0]  # entropy of the rows: 0.637
    assert not torch.allclose(mixed.shares, torch.tensor([0.5, 0.5]), atol=0.05)


def test_what_cannot_be_mixed_is_refused_by_name() -> None:
    a = pc.Circuit(pc.structures.factorized(3), pc.Categorical(2), num_units=2, seed=0)
    other = pc.Circuit(pc.structures.factorized(3), pc.Categorical(3), num_units=2, seed=0)
    with pytest.raises(pc.StructureError, match="`circuits` must be at least one circuit"):
        pc.mixture([])
    with pytest.raises(pc.StructureError, match="circuit 1 has other variables"):
        pc.mixture([a, other])
    with pytest.raises(pc.StructureError, match=r"circuit 1 is of torch.float64"):
        pc.mixture([a, pc.Circuit(pc.structures.factorized(3), pc.Categorical(2), num_units=2, dtype=torch.float64)])
    signed = pc.SignedCircuit(pc.structures.factorized(3), pc.Categorical(2), num_units=2, seed=0)
    with pytest.raises(pc.StructureError, match="circuit 1 may be negative"):
        pc.mixture([a, signed])
    with pytest.raises(pc.ShapeError, match=r"`shares` must have shape \(2,\)"):
        pc.mixture([a, a], [1.0])
    for shares in ([1.0, -1.0], [0.0, 0.0], [1.0, float("nan")], [1.0, float("inf")]):
        with pytest.raises(pc.ParameterError, match="`shares` must be finite"):
            pc.mixture([a, a], shares)
