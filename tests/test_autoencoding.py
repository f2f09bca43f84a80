"""Autoencoding circuits: encoding equals enumeration, the objective is its formula, and both parts learn."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

import pcircuits as pc
from pcircuits import testing

ANY_CALL = (pc.ParameterError, pc.ShapeError, TypeError)  # annotations that are checked at run time stop earlier


def bits(seed: int = 0, **options: object) -> pc.AutoencodingCircuit:
    """Four bits of data and two latent variables of three values."""
    families = [pc.Bernoulli()] * 4 + [pc.Categorical(3)] * 2
    graph = pc.structures.binary_tree(6, [0, 1, 4, 2, 3, 5])
    circuit = pc.Circuit(graph, families, num_units=4, seed=seed, dtype=torch.float64)
    torch.manual_seed(seed)
    options = {"reconstruction": logits_error, **options}
    return pc.AutoencodingCircuit(circuit, nn.Linear(6, 4, dtype=torch.float64), num_latent=2, **options)


def numbers(seed: int = 0, **options: object) -> pc.AutoencodingCircuit:
    """Three numbers of data; a latent number and a latent variable of two values."""
    families = [*[pc.Gaussian()] * 4, pc.Categorical(2)]
    graph = pc.structures.rat(5, 2, num_repetitions=2, seed=1)
    circuit = pc.Circuit(graph, families, num_units=3, seed=seed, dtype=torch.float64)
    torch.manual_seed(seed)
    return pc.AutoencodingCircuit(circuit, nn.Linear(3, 3, dtype=torch.float64), num_latent=2, **options)


def logits_error(logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return binary_cross_entropy_with_logits(logits, x, reduction="none")


def copies(n: int = 60, seed: int = 0) -> torch.Tensor:
    """Rows of four equal bits, one of which may differ."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(2, (n, 1), generator=generator).expand(n, 4).clone()
    return x ^ (torch.rand(n, 4, generator=generator) < 0.05)


def with_gaps(x: torch.Tensor, seed: int = 1) -> torch.Tensor:
    gone = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.3
    return x.double().masked_fill(gone, torch.nan)


def test_embedding_and_likelihood_equal_enumeration_whatever_is_missing() -> None:
    model, x = bits(), with_gaps(copies(12))
    worlds = testing.worlds(model.circuit)
    with torch.no_grad():
        joint, found = model.circuit.log_prob(worlds), model.embed(x)
        agrees = ((worlds[:, :4] == x.unsqueeze(1)) | x.isnan().unsqueeze(1)).all(-1)
        log = torch.where(agrees, joint, -torch.inf)
        assert torch.allclose(model.log_prob(x), log.logsumexp(1), atol=1e-10)
        want = torch.einsum("bw, wlv -> blv", log.softmax(1), one_hot(worlds[:, 4:], 3).double())
        assert torch.allclose(found, want.flatten(1), atol=1e-10)


def test_evidence_of_x_may_have_weights_and_intervals() -> None:
    model = bits()
    weights = torch.randn(5, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = torch.zeros(5, 6, 3, dtype=torch.float64)
    whole[:, :4, :2] = weights
    found = model.log_prob(pc.Evidence(log_weights=weights)).detach()
    assert torch.allclose(found, model.circuit.condition(pc.Evidence(log_weights=whole)).log_evidence.detach())
    model = numbers()
    nothing = torch.zeros(2, 3, dtype=torch.float64)
    half = model.log_prob(pc.Evidence(nothing, interval=(0.0, torch.inf))).detach()
    ends = torch.tensor([[0.0] * 3 + [-torch.inf] * 2, [torch.inf] * 5]).double().T.expand(2, 5, 2)
    zeros = torch.zeros(2, 5, dtype=torch.float64)
    assert torch.allclose(half, model.circuit.condition(pc.Evidence(zeros, interval=ends)).log_evidence.detach())
    with pytest.raises(pc.EvidenceError, match="covers 1 values"):
        bits().encode(pc.Evidence(log_weights=weights[..., :1]))
    with pytest.raises(pc.EvidenceError, match="got `latent`"):
        model.encode(pc.Evidence(nothing, latent=torch.zeros(2, 3, 3)))


@pytest.mark.parametrize("make", [bits, numbers])
def test_draws_have_the_exact_mean(make) -> None:
    model = make()
    row = with_gaps(copies(1, seed=3))[:, : model.num_data]
    with torch.no_grad():
        drawn = model.encode(row.expand(8000, -1), generator=torch.Generator().manual_seed(0))
        want = model.embed(row)[0]
    error = drawn.std(0) / 8000**0.5
    assert ((drawn.mean(0) - want).abs() < 4.5 * error + 1e-9).all()
    assert drawn.dtype == torch.float64 and drawn.shape[1] == len(want)


def test_the_loss_is_its_formula_over_observed_values() -> None:
    model, x = bits(weight=0.3), with_gaps(copies(9))
    torch.manual_seed(5)
    losses = model(x)
    torch.manual_seed(5)
    logits, seen = model.reconstruct(x), ~x.isnan()
    errors = (logits_error(logits, x.nan_to_num()) * seen).sum(1)
    assert torch.allclose(losses, errors - 0.3 * model.log_prob(x), atol=1e-12)
    assert torch.equal(-losses, (torch.manual_seed(5), model.objective(model, pc.Evidence.from_nan(x)))[1])
    squares, row = numbers(weight=0.0), torch.ones(2, 3, dtype=torch.float64)
    torch.manual_seed(5)
    losses = squares(row)
    torch.manual_seed(5)
    assert torch.allclose(losses, (squares.reconstruct(row) - row).square().sum(1))


@pytest.mark.parametrize("make", [bits, numbers])
def test_the_error_alone_teaches_circuit_and_decoder(make) -> None:
    model, x = make(weight=0.0), copies()[:, : make().num_data].double()
    history = pc.fit(
        model, x, objective=model.objective, learner=pc.Adam(0.05), epochs=40, batch_size=30, seed=0, progress=False
    )
    assert history.train_loss[-1] < 0.75 * history.train_loss[0]
    for part in (model.circuit, model.decoder):
        assert all(p.isfinite().all() for p in part.parameters())
    start = make(weight=0.0)
    moved = [not torch.equal(p, q) for p, q in zip(model.circuit.parameters(), start.circuit.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2


def test_missing_values_are_reconstructed_and_new_rows_generated() -> None:
    torch.manual_seed(0)
    model, x = bits(1), copies(200)
    pc.fit(
        model,
        with_gaps(x),
        objective=model.objective,
        learner=pc.Adam(0.05),
        epochs=40,
        batch_size=40,
        seed=0,
        progress=False,
    )
    hidden = with_gaps(x, seed=9)
    with torch.no_grad():
        found = model.decode(model.embed(hidden)) > 0
    known = (~hidden.isnan()).any(1, keepdim=True) & hidden.isnan()
    assert (found == x.bool())[known].double().mean() > 0.85
    rows = model.generate(400, generator=torch.Generator().manual_seed(0)) > 0
    assert not rows.requires_grad and ((rows.sum(1) % 4) == 0).double().mean() > 0.8  # mostly four equal bits
    assert 0.2 < rows.double().mean() < 0.8


def test_generated_z_follow_the_prior() -> None:
    model = bits()
    model.decoder = nn.Identity()
    drawn = model.generate(6000, generator=torch.Generator().manual_seed(0))
    want = model.circuit.marginals()[4:]
    assert torch.allclose(drawn.mean(0), torch.cat([m.detach() for m in want]), atol=0.03)


def test_a_seed_gives_the_same_run_also_interrupted(tmp_path: Path) -> None:
    x, runs = with_gaps(copies()), []
    options = {"learner": pc.Adam(0.05), "batch_size": 20, "seed": 0, "progress": False}
    for epochs in ([3], [3], [1, 3]):
        model, folder = bits(), tmp_path / str(len(runs))
        torch.manual_seed(7)
        for n in epochs:
            pc.fit(model, x, objective=model.objective, epochs=n, checkpoint=folder, resume=True, **options)
            torch.rand(3)  # what others draw meanwhile does not matter
        runs.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*runs, strict=True))
    model = bits()
    twice = [model.encode(x, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*twice)


def test_rows_have_weights_and_circuits_their_own_files(tmp_path: Path) -> None:
    model, x = bits(), copies(8)
    weights = torch.tensor([1.0, 0.0] * 4)
    pc.fit(model, x, objective=model.objective, learner="adam", epochs=1, sample_weights=weights, progress=False)
    pc.save(model.circuit, tmp_path / "circuit")
    other = bits(5)
    other.circuit = pc.load(tmp_path / "circuit")
    assert torch.equal(other.embed(x), model.embed(x))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.decode(other.embed(x)), model.decode(model.embed(x)))


def test_any_reconstruction_error_will_do() -> None:
    circuit = pc.Circuit(pc.structures.chain(4), pc.Categorical(3), num_units=2, seed=0)
    decoder = nn.Sequential(nn.Linear(3, 9), nn.Unflatten(1, (3, 3)))

    def error(logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits, x.long(), reduction="none")

    model = pc.AutoencodingCircuit(circuit, decoder, num_latent=1, reconstruction=error)
    assert model(torch.zeros(5, 3, dtype=torch.long)).shape == (5,)
    model.reconstruction = lambda logits, x: error(logits, x).sum(1)
    with pytest.raises(ANY_CALL, match=r"one error a value, \(5, 3\)"):
        model(torch.zeros(5, 3, dtype=torch.long))


def test_what_does_not_fit_is_refused_by_name() -> None:
    circuit, decoder = bits().circuit, nn.Identity()
    for number in (0, 6, 1.5):
        with pytest.raises(ANY_CALL, match="num_latent"):
            pc.AutoencodingCircuit(circuit, decoder, num_latent=number)  # type: ignore[arg-type]
    for options in ({"weight": -1.0}, {"weight": float("nan")}, {"temperature": 0.0}, {"temperature": float("inf")}):
        with pytest.raises(pc.ParameterError, match="`weight` must be"):
            pc.AutoencodingCircuit(circuit, decoder, num_latent=1, **options)
    with pytest.raises(ANY_CALL, match="circuit"):
        pc.AutoencodingCircuit(decoder, decoder, num_latent=1)  # type: ignore[arg-type]
    pairs = pc.structures.grouped(pc.structures.chain(2), [[0, 1], [2, 3]])
    for graph, family in ((pc.structures.chain(3), pc.Poisson()), (pairs, pc.ChowLiuTree((-1, 0), 2))):
        with pytest.raises(pc.StructureError, match=type(family).__name__):
            pc.AutoencodingCircuit(pc.Circuit(graph, family, num_units=2), decoder, num_latent=1)
    with pytest.raises(pc.ShapeError, match="x has 6 variables, this model has 4"):
        bits().encode(torch.zeros(2, 6, dtype=torch.long))
    with pytest.raises(ANY_CALL, match="x"):
        bits().encode([0, 1])  # type: ignore[arg-type]
    with pytest.raises(pc.ParameterError, match="objective"):
        pc.fit(bits(), copies(), learner="adam", progress=False)
