"""Deep Gaussian mixture: a Gaussian sent through one affine transformation from each of several layers, by EM.

    z ~ N(0, I),    a path p = (p_1, ..., p_k) ~ pi,    v_0 = z,    v_j = A_j,pj v_j-1 + b_j,pj,    x = v_k
    p(x) = sum_p pi_p N(x; beta_p, Omega_p Omega_p^T),    Omega_p = A_k,pk ... A_1,p1,
    beta_p = b_k,pk + A_k,pk (b_k-1,pk-1 + A_k-1,pk-1 (... b_1,p1))

    E, soft:  r_np = pi_p N(x_n; path p) / p(x_n) of all N_1 ... N_k paths, an exact step of EM
       hard:  the one best path of each example; `heuristic`: the better of one pass of coordinate ascent from the path
              of the last iteration and of two passes from a random path, 3 sum_j N_j path evaluations
    M, layer by layer from the top: log |Q| - 1/2 sum_u Tr[M_u Q~^T Omega~_u Q~] for each node (`_node`), in closed form
       for the top layer, else some iterations of L-BFGS-B: a generalised EM step, which never lowers its objective.
       A node with fewer than d + 1 examples starts again as a half of its layer's largest, and may lower it
    pi_p = share of path p (`joint`), or the product of its nodes' shares (`factorised`)

With minibatches (stepwise EM, as in `gmm`) moments are running averages that start from what the first parameters
imply, and the M-step is taken after each of them: not monotone, but many more steps for each pass over the data.

With biases, every transformation is a (d + 1, d + 1) matrix and the paper's equations hold as they are (`_network`,
`_node`); it leaves biases out from equation 5 on. One layer is a Gaussian mixture. The ridge is that of the mixture:
all moments are taken of x + N(0, ridge I), so that no path's expected covariance is narrower than it. Layer 1, the top
layer of the paper, is nearest z. Training sees the data whitened by their own mean and covariance, which changes
layer k alone.

Reference: van den Oord and Schrauwen, "Factoring variations in natural images with deep Gaussian mixture models", NIPS
2014, sections 2 and 3; Cappe and Moulines, "On-line expectation-maximization algorithm for latent data models", Journal
of the Royal Statistical Society B 71(3), 2009.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.models.density._gaussian import chunk_rows
from dgmbench.models.mixtures import _deep_em, _fitting, _network
from dgmbench.models.mixtures._components import Components, whitened
from dgmbench.models.mixtures._search import PathSearch
from dgmbench.training.distributed import Group
from dgmbench.training.session import Session

SMOKE: dict = {"components": [3, 2], "iterations": 4, "start_examples": 200, "start_iterations": 3, "ridge": 1e-3}

# What only one way of training reads.
_OF_EM = ("assignment", "tolerance", "solver_iterations", "pseudo_count", "minibatch", "decay")
_OF_GRADIENTS = ("learning_rate", "momentum", "batch", "least_share")


class Spec(_fitting.Precise, _fitting.Stepwise):
    components: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (10, 5), min_length=1, description="Nodes of each layer, first the top layer (nearest z), last the one at x."
    )
    weights: Literal["joint", "factorised"] = Field(
        "joint", description="One probability for each path, or one for each node and their products."
    )
    training: Literal["em", "sgd", "sgd_layerwise"] = Field(
        "em", description="EM; or stochastic gradients, of all layers at once or of one layer at a time."
    )
    assignment: Literal["soft", "hard", "heuristic"] = Field(
        "soft", description="E-step: responsibilities of all paths, the best of all, or the best that ascent finds."
    )
    iterations: int = Field(100, ge=1, description="EM iterations at most, or epochs of stochastic gradients.")
    tolerance: float = Field(
        1e-4, ge=0, description="EM stops where its mean objective, in nats, moves by less than this; 0 for never."
    )
    solver_iterations: int = Field(20, ge=1, description="L-BFGS-B iterations for each node of each M-step.")
    ridge: float = Field(
        0.0, ge=0, description="Variance added to every direction of the training data, in their units squared."
    )
    pseudo_count: float = Field(
        0.0,
        ge=0,
        description="Examples added to every path's count: a path that no example takes is lost for good without.",
    )
    start: Literal["scales", "layerwise", "random"] = Field(
        "scales",
        description="Layers fitted one after another from the data upwards, with multiples of the identity below the "
        "top layer or without; or all near the identity.",
    )
    start_examples: int = Field(50_000, ge=1, description="How many training examples the layerwise start sees.")
    start_iterations: int = Field(15, ge=1, description="EM iterations for each layer of the layerwise start.")
    learning_rate: float = Field(0.05, gt=0, description="Step of stochastic gradients, falling linearly to 0.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of stochastic gradients.")
    batch: int = Field(500, ge=1, description="Examples for each stochastic gradient.")
    least_share: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="Stochastic gradients re-seed a node used less than this share of its fair part; 0 for never.",
    )

    @model_validator(mode="after")
    def _settings_are_read(self) -> Self:
        _fitting.only_read(self, self.training == "em", "where training is em", *_OF_EM)
        return _fitting.only_read(self, self.training != "em", "where training is by gradients", *_OF_GRADIENTS)


class Model(_fitting.Mixture):
    Spec = Spec

    @classmethod
    def parts(cls, spec: Spec) -> int:
        return math.prod(spec.components)

    @property
    def free_parameters(self) -> int:
        """Dimensions of the family of densities: weights and transformations, less what changes no density.

        A rotation of z may follow every node of the top layer, d (d - 1) / 2 each; an affine map of all that leaves a
        layer may be undone by the next, d (d + 1) for each pair of layers.
        """
        sizes, d = self.spec.components, self.dimension
        weights = math.prod(sizes) - 1 if self.spec.weights == "joint" else sum(sizes) - len(sizes)
        # One node above all others is part of each of them: what it makes of z is a Gaussian like any other.
        while len(sizes) > 1 and sizes[0] == 1:
            sizes = sizes[1:]
        undone = sizes[0] * d * (d - 1) // 2 + (len(sizes) - 1) * d * (d + 1)
        return weights + sum(sizes) * d * (d + 1) - undone

    def fit(self, data: Dataset, session: Session) -> None:
        """EM or stochastic gradients on whitened data.

        Each iteration records, of the parameters that it starts from: `log_likelihood` (soft EM: mean over the training
        data) or `best_path_log_likelihood` (hard: mean of log pi_p N of the path assigned, a lower bound of it), both
        along the pass where there are minibatches; `validation_log_likelihood` of at most 20,000 evenly spaced
        validation examples, all in nats of the data's own space; `rounding` (mean absolute difference between the
        E-step's log p and float64, nats); `reseeded_nodes`; `solver_evaluations`; for the heuristic `switch_rate`, the
        share of examples for which the random start found a better path, and `path_evaluations` for each example; with
        several processes `exchanged_share`, bytes put into collective operations over the bytes of the training data.

        Raises:
            CannotBeDone: too few examples; a singular covariance (says which ridge to set); float32 too coarse.
        """
        spec, group = self.spec, Group()
        widest = max(spec.components)
        work = _fitting.working(data, spec, "whitened", widest, self.dimension + 1, session.device, group)
        if min(spec.start_examples, work.count) < widest:
            raise CannotBeDone(f"the start needs an example for each of {widest} nodes: set start_examples to more.")
        rows = _fitting.spread(work.count, spec.start_examples)
        seen = whitened(data.train, rows, work.mean, work.scale, work.z.dtype)
        if spec.training == "em":
            layers, log_weights = _deep_em.fit(spec, work, seen, session, group)
        else:
            from dgmbench.models.mixtures import _deep_sgd

            layers, log_weights = _deep_sgd.fit(spec, work, seen, session, group)
        state = {"log_weights": log_weights}
        for j, nodes in enumerate(layers, 1):
            matrices, biases = _network.generative(nodes)
            if j == len(layers):
                matrices, biases = work.scale @ matrices, work.mean + biases @ work.scale.T
            state |= {f"matrices_{j}": matrices, f"biases_{j}": biases}
        self.load_state(state)

    def state(self) -> dict[str, Tensor]:
        """`log_weights` (P,) of paths, row-major; of each layer j `matrices_j` (N_j, d, d) and `biases_j` (N_j, d)."""
        named = {"log_weights": self._log_weights}
        for j, (matrices, biases) in enumerate(self._layers, 1):
            named |= {f"matrices_{j}": matrices, f"biases_{j}": biases}
        return named

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._log_weights = state["log_weights"]
        count = len(self.spec.components)
        self._layers = [(state[f"matrices_{j}"], state[f"biases_{j}"]) for j in range(1, count + 1)]
        self._inverse = [_network.invert(*layer) for layer in self._layers]
        d = self.dimension
        forward = [_network.homogeneous(*layer) for layer in reversed(self._layers)]
        folded = _network.fold(forward, d + 1, self._log_weights).view(*reversed(self.spec.components), d + 1, d + 1)
        # Folded from layer k to layer 1; paths are numbered from layer 1 to layer k.
        folded = folded.permute(*reversed(range(count)), count, count + 1).reshape(-1, d + 1, d + 1)
        self._means, self._maps = folded[:, :d, d].contiguous(), folded[:, :d, :d].contiguous()
        self._shallow: Components | None = None

    def shallow(self) -> dict[str, Tensor]:
        """The equivalent mixture of prod_j N_j Gaussians, as the state of `gmm`: one component for each path."""
        return self._components()._asdict()

    def _components(self) -> Components:
        if self._shallow is None:
            # L L^T = Omega Omega^T: the transposed triangle of a QR decomposition, with a positive diagonal.
            triangles = torch.linalg.qr(self._maps.mT, mode="r").R.mT
            factors = triangles * triangles.diagonal(dim1=1, dim2=2).sign()[:, None, :]
            self._shallow = Components(self._log_weights, self._means, factors.contiguous())
        return self._shallow

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.cat([scores.logsumexp(0) for scores in self._scores(x)])

    def assign(self, x: Tensor) -> Tensor:
        """The number of the most probable path, row-major over the layers from the top."""
        return self.best_paths(x)[1]

    def path_posterior(self, x: Tensor) -> Tensor:
        """r_np = p(path p given x_n): (n, d) -> (n, P)."""
        return torch.cat([scores.softmax(0).T for scores in self._scores(x)])

    def nodes(self, paths: Tensor) -> Tensor:
        """Numbers of paths -> the node of each layer: (n,) -> (n, layers)."""
        return torch.stack(torch.unravel_index(paths, self.spec.components), 1)

    def best_paths(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log pi_p N(x; path p) of the best of all paths, nats, and its number: (n, d) -> (n,), (n,)."""
        best = [scores.max(0) for scores in self._scores(x)]
        return torch.cat([b.values for b in best]), torch.cat([b.indices for b in best])

    def search_paths(
        self, x: Tensor, passes: int, repeats: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, int]:
        """The best path that coordinate ascent finds from `repeats` random paths, in float64.

        Returns:
            log pi_p N (n,) in nats, the path's number (n,), and how many path evaluations each example took.
        """
        # The precision of quadratic features needs data near unit scale: the mixture's own mean and covariance.
        weights, parts = self._log_weights.exp(), self._components()
        mean = weights @ self._means
        spread = self._means - mean
        covariance = torch.einsum("p,pij,pkj->ik", weights, parts.factors, parts.factors)
        scale = torch.linalg.cholesky(covariance + (spread * weights[:, None]).T @ spread)
        inverse = [*self._inverse[:-1], self._inverse[-1] @ _network.homogeneous(scale, mean)]
        search = PathSearch(
            self.spec.components, _network.natural_parameters(inverse, self._log_weights), self.dimension, 2048
        )
        z = torch.linalg.solve_triangular(scale, (x.to(mean) - mean).T, upper=False).T.contiguous()
        paths = search.from_random(z, passes, repeats, generator)[1]
        evaluations = search.evaluations // max(1, len(x))
        # Exact scores of what was found: features lose digits where a path is very narrow.
        return self._scores_along(x, paths), paths, evaluations

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.sample_path(n, generator)[0]

    def sample_path(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draws, the paths that they took and every place on the way: (n, d), (n, layers), (layers + 1, n, d)."""
        options = {"generator": generator, "device": generator.device, "dtype": torch.float64}
        paths = torch.searchsorted(self._log_weights.exp().cumsum(0), torch.rand(n, **options))
        nodes = self.nodes(paths.clamp(max=len(self._log_weights) - 1))
        trail = [torch.randn((n, self.dimension), **options)]
        for j, (matrices, biases) in enumerate(self._layers):
            value = torch.empty_like(trail[-1])
            for i in nodes[:, j].unique():
                own = nodes[:, j] == i
                value[own] = trail[-1][own] @ matrices[i].T + biases[i]
            trail.append(value)
        return trail[-1].float(), nodes, torch.stack(trail)

    def complete(self, x: Tensor, known: Tensor, generator: torch.Generator) -> Tensor:
        """x with its unknown values drawn from p(x_unknown given x_known): (n, d), (d,) bool -> (n, d)."""
        return self._components().complete(x, known, generator)

    def posterior_mean(self, y: Tensor, noise_sd: float) -> Tensor:
        return self._components().posterior_mean(y, noise_sd)

    def posterior_mode(self, y: Tensor, noise_sd: float) -> Tensor:
        """An approximation: the Wiener estimate of the path most probable given y."""
        return self._components().posterior_mode(y, noise_sd)

    def _scores_along(self, x: Tensor, paths: Tensor) -> Tensor:
        """log pi_p N(x_n; path p_n) of one path for each example: (n, d), (n,) -> (n,), in float64."""
        folded, constants = _network.path_densities(self._inverse, self._log_weights)
        scores = torch.empty(len(x)).to(self._means)
        for p in paths.unique():
            own = paths == p
            scores[own] = _network.log_joint(x[own].to(self._means), folded[p][None], constants[p][None])[0]
        return scores

    def _scores(self, x: Tensor):
        """log pi_p N(x; path p), chunk by chunk of examples: (P, m) each, in float64."""
        folded, constants = _network.path_densities(self._inverse, self._log_weights)
        for part in x.split(max(1, chunk_rows(self.dimension) // 8)):
            yield _network.log_joint(part.to(self._means), folded, constants)
