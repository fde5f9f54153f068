"""What the variational autoencoder and the importance-weighted one share: densities, sampling and training.

One stochastic layer:
    p(x, z) = N(z; 0, I) p(x given z),    q(z given x) = N(z; mu(x), diag(sd(x)^2))
Two, the upper one y:
    p(x, z, y) = N(y; 0, I) N(z; m(y), diag(s(y)^2)) p(x given z)
    q(z, y given x) = q(z given x) N(y; mu(z), diag(sd(z)^2))

Encoder and decoder are mirror images of each other. log w = log p(x, z, y) - log q(z, y given x) is written as
log p(x given z) - D, with D = log q(z, y given x) - log p(z, y), whose mean under q is the divergence KL(q || p).

Steps of Adam that are large enough to come far in few epochs leave the parameters theta_t scattered about where they
head. With `averaging` the model is their average, and training goes on from theta_t itself:

    average_t = average_(t-1) + (theta_t - average_(t-1)) / min(t, T),    T the steps of so many epochs

References: Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", ICLR 2016, sections 3 and 5; averaging:
Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", SIAM Journal on Control and Optimization
30, 1992.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone
from dgmbench.models import base
from dgmbench.models.base import Decoder, Encoder, LatentVariable, Sampler
from dgmbench.models.variational import _training
from dgmbench.models.variational._networks import Networks, multiplications
from dgmbench.models.variational._outputs import (
    SQUARED_ERROR_SD,
    Bernoulli,
    Gaussian,
    Output,
    bernoulli_log_normaliser,
)
from dgmbench.models.variational._training import TrainingSpec
from dgmbench.training.session import Session


class AutoencoderSpec(TrainingSpec):
    latent: int = Field(50, ge=1, description="Gaussian latent variables of the layer next to x.")
    hidden: list[int] = Field([200, 200], min_length=1, description="Units between x and z, from x towards z.")
    upper_latent: int | None = Field(
        None, ge=1, description="Latent variables of a second stochastic layer, above the first; null for one layer."
    )
    upper_hidden: list[int] = Field(
        [100, 100], min_length=1, description="Units between the two stochastic layers, from the lower one upwards."
    )
    averaging: float | None = Field(
        None,
        gt=0,
        description="Epochs that the parameters are averaged over, earlier ones counting exponentially less: the "
        "averages are what is validated and kept. null: the parameters themselves.",
    )
    activation: Literal["tanh", "relu"] = Field("tanh", description="What hidden units do with their input.")
    decoder: Literal["auto", "bernoulli", "gaussian", "squared_error"] = Field(
        "auto",
        description="p(x given z). auto: bernoulli on binary data, gaussian on others. squared_error: the Gaussian of "
        "variance 1/2, whose log-density is the negative squared error up to a constant.",
    )
    output_sd: float | None = Field(
        None,
        gt=0,
        description="Of the Gaussian decoder: standard deviation of every dimension, in the data's units; null for one "
        "that the decoder gives for each dimension and z.",
    )
    least_sd: float = Field(
        0.01, gt=0, description="Of the Gaussian decoder that gives its own: the least standard deviation."
    )

    @model_validator(mode="after")
    def _settings_are_read(self) -> Self:
        defaults = type(self).model_fields
        gaussian = self.decoder in ("auto", "gaussian")
        for name, read, when in (
            ("upper_hidden", self.upper_latent is not None, "with a second stochastic layer (upper_latent)"),
            ("output_sd", gaussian, "by the gaussian decoder"),
            ("least_sd", gaussian and self.output_sd is None, "by the gaussian decoder without output_sd"),
        ):
            if not read and getattr(self, name) != defaults[name].default:
                raise ValueError(f"'{name}' is read only {when}: leave it out")
        return self


class Autoencoder(base.Model, LatentVariable, Encoder, Decoder, Sampler):
    """`parameters` maps `encoder.0.weight`, `encoder.0.bias`, ... to (out, in) and (out,) tensors.

    The nets: `encoder` and `decoder`; with a second layer `upper_encoder` and `upper_decoder` too. All but the decoder
    give a mean and a log standard deviation side by side; the decoder what its distribution is told (`_outputs`).
    """

    accepts = frozenset({"binary", "unit", "real"})

    @classmethod
    def operations(cls, spec: AutoencoderSpec, dimension: int) -> float:
        upper = [spec.latent, *spec.upper_hidden, spec.upper_latent] if spec.upper_latent else [0]
        return 2.0 * (multiplications([dimension, *spec.hidden, spec.latent]) + multiplications(upper))

    @classmethod
    def passes(cls, spec: AutoencoderSpec) -> float:
        return 3.0 * spec.epochs * spec.samples_k

    def __init__(self, spec: AutoencoderSpec, dimension: int):
        super().__init__(spec, dimension)
        self._take_output("bernoulli" if spec.decoder == "auto" else spec.decoder)

    @property
    def parameters(self) -> dict[str, Tensor]:
        return self.networks.parameters

    @property
    def latent_dimension(self) -> int:
        return self.spec.latent + (self.spec.upper_latent or 0)

    def state(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.parameters.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if self.spec.decoder == "auto":
            # Only the Gaussian that gives its own standard deviations has two outputs for a dimension.
            name = f"decoder.{self.networks.last('decoder')}.bias"
            gaussian = len(state[name]) == 2 * self.dimension or self.spec.output_sd is not None
            self._take_output("gaussian" if gaussian else "bernoulli")
        self.networks.parameters = {name: state[name] for name in self.parameters}

    def fit(self, data: Dataset, session: Session) -> None:
        """Adam on the negative objective; the parameters, or their averages, with the best validation bound are kept.

        The history holds `bound` (nats, the bound of each minibatch in training) and `validation_bound`.

        Raises:
            CannotBeDone: the decoder's distribution is not defined on these data.
        """
        spec, generator = self.spec, session.generator
        self._initialise(data, session)
        optimiser = _training.optimiser(spec, list(self.parameters.values()))
        batch = min(spec.batch_size, len(data.train))
        batches = len(data.train) // batch
        order = torch.zeros(len(data.train), dtype=torch.int64, device=session.device)
        best = {f"best.{name}": value.clone() for name, value in self.state().items()}
        kept = {"order": order, "best_bound": -math.inf, **best}
        averages = {name: value.clone() for name, value in self.state().items()} if spec.averaging else self.state()
        session.track(parameters=self.parameters, averages=averages, optimiser=optimiser, kept=kept)
        validation = _training.validation_examples(spec, data, session.device)

        total = spec.epochs * batches
        for step in session.steps(total):
            if step % batches == 0:
                order.copy_(torch.randperm(len(order), generator=generator, device=session.device))
            rows = order[(step % batches) * batch : (step % batches + 1) * batch]
            x = data.train.take(rows, generator).to(session.device)
            for group in optimiser.param_groups:
                group["lr"] = _training.learning_rate(spec, step, total)
            objective, bound = self.objective(x, generator, (step + 1) / batches)
            session.record(bound=bound.detach().mean())
            optimiser.zero_grad()
            (-objective.mean()).backward()
            optimiser.step()
            if spec.averaging:
                share = 1 / min(step + 1, max(1, round(spec.averaging * batches)))
                torch._foreach_lerp_(list(averages.values()), list(self.state().values()), share)
            epoch, left = divmod(step + 1, batches)
            if left == 0 and (epoch % spec.validate_every == 0 or epoch == spec.epochs):
                value = self._bound_with(averages, validation)
                session.record(validation_bound=value)
                if value > kept["best_bound"]:
                    kept["best_bound"] = value
                    for name, average in averages.items():
                        kept[f"best.{name}"].copy_(average)
        self.networks.parameters = {name: kept[f"best.{name}"] for name in self.parameters}

    @abstractmethod
    def objective(self, x: Tensor, generator: torch.Generator, epochs: float) -> tuple[Tensor, Tensor]:
        """What is maximised after so many epochs, and the bound that it stands for: (n, d) -> (n,) twice, nats."""

    def log_weights(self, x: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """log p(x, z) - log q(z given x) for k draws: (n, d) -> (k, n), nats, float32 as the parameters are."""
        with torch.no_grad():
            log_likelihood, divergence = self.terms(self._typed(x), self.noise(k, len(x), generator))
            return log_likelihood - divergence

    def noise(self, k: int, n: int, generator: torch.Generator) -> list[Tensor]:
        """Standard normal draws, those of the layer next to x first: (k, n, latent), then (k, n, upper_latent)."""
        like = self.parameters["decoder.0.weight"]
        widths = [self.spec.latent, self.spec.upper_latent]
        return [
            torch.randn(k, n, width, generator=generator, dtype=like.dtype, device=like.device)
            for width in widths
            if width is not None
        ]

    def terms(self, x: Tensor, noise: list[Tensor], closed_form: bool = False) -> tuple[Tensor, Tensor]:
        """log p(x given z) and D = log q - log p of the latent variables, at `noise`: (n, d) -> (k, n) twice, nats.

        With `closed_form` the part of D that belongs to the highest layer is its expectation given the layer below,
        KL(N(mu, sd^2) || N(0, I)) = sum (mu^2 + sd^2 - 1) / 2 - log sd. The differences have the same mean.
        """
        lower, *upper = noise
        k = len(lower)
        mean, log_sd = self.encode(x)
        z = _reparametrised(mean, log_sd, lower)
        log_likelihood = self.log_prob_x_given_z(x, z if k > 1 else z[0]).reshape(k, len(x))
        if not upper:
            return log_likelihood, _divergence(mean, log_sd, z, lower, closed_form).expand(k, len(x))
        mean_y, log_sd_y = self.networks.moments("upper_encoder", z)
        y = _reparametrised(mean_y, log_sd_y, upper[0])
        prior_mean, prior_log_sd = self.networks.moments("upper_decoder", y)
        standardised = (z - prior_mean) * torch.exp(-prior_log_sd)
        # The normalisers (2 pi)^(-latent/2) of q and p cancel, here and in `_divergence`.
        between = (0.5 * (standardised.square() - lower.square()) + prior_log_sd - log_sd).sum(-1)
        return log_likelihood, between + _divergence(mean_y, log_sd_y, y, upper[0], closed_form)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws: the latent variables from their prior, then x from its distribution given them: (n, d)."""
        bias = self.parameters["decoder.0.bias"]
        u = torch.randn(n, self.latent_dimension, generator=generator, dtype=bias.dtype, device=bias.device)
        with torch.no_grad():
            return self.output.draw(self.decode(self._lowest(u)), generator)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log sd of q(z given x): (n, d) -> (n, latent) twice."""
        return self.networks.moments("encoder", x)

    def decode(self, z: Tensor) -> Tensor:
        """What the distribution of x given z is told (of Bernoulli: logits): (n, latent) -> (n, width)."""
        return self.networks.apply("decoder", z)

    def posterior_means(self, x: Tensor, draws: int, generator: torch.Generator) -> list[Tensor]:
        """E[z given x] under q, and of a second layer E[y given x] as a mean over draws of z."""
        with torch.no_grad():
            mean, log_sd = self.encode(self._typed(x))
            if self.spec.upper_latent is None:
                return [mean]
            upper = torch.zeros(len(x), self.spec.upper_latent, dtype=torch.float64, device=mean.device)
            for _ in range(draws):
                noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
                z = _reparametrised(mean, log_sd, noise)
                upper += self.networks.moments("upper_encoder", z)[0]
            return [mean, upper / draws]

    def mean_x_given_u(self, u: Tensor) -> Tensor:
        with torch.no_grad():
            return self.output.mean(self.decode(self._lowest(self._typed(u))))

    def log_prob_x_given_u(self, x: Tensor, u: Tensor) -> Tensor:
        return self.output.log_prob(self._typed(x), self.decode(self._lowest(self._typed(u))))

    def log_prob_table(self, x: Tensor, u: Tensor) -> Tensor:
        with torch.no_grad():
            return self.output.table(x, self.decode(self._lowest(self._typed(u))))

    def log_prob_x_given_z(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x given z), nats: (n, d), (n, latent) -> (n,), or z of (k, n, latent) -> (k, n).

        With k draws of a Bernoulli decoder the linear term is taken in the last hidden layer, x.(W u + b) =
        (x W).u + x.b: one pass over k n rows of that layer's width in place of one over k n rows of d.
        """
        if z.dim() == 2 or not isinstance(self.output, Bernoulli):
            return self.output.log_prob(x, self.decode(z))
        last = self.networks.last("decoder")
        weight, bias = self.parameters[f"decoder.{last}.weight"], self.parameters[f"decoder.{last}.bias"]
        hidden = self.networks.apply("decoder", z, layers=last)
        return (hidden * (x @ weight)).sum(-1) + x @ bias - bernoulli_log_normaliser(hidden, weight, bias)

    def validation_bound(self, x: Tensor) -> float:
        """The mean importance-weighted bound with `validation_k` draws, under the same noise whenever it is asked."""
        generator = torch.Generator(x.device).manual_seed(_training.VALIDATION_SEED)
        parts = [self.log_weights(block, self.spec.validation_k, generator) for block in x.split(200)]
        return _training.log_mean_exp(torch.cat(parts, 1).double()).mean().item()

    def _bound_with(self, parameters: dict[str, Tensor], x: Tensor) -> float:
        """The validation bound with other parameters than the model's own."""
        own, self.networks.parameters = self.networks.parameters, parameters
        try:
            return self.validation_bound(x)
        finally:
            self.networks.parameters = own

    def _lowest(self, u: Tensor) -> Tensor:
        """z of the layer next to x from standard normal coordinates of all layers, the upper layer's last."""
        if self.spec.upper_latent is None:
            return u
        noise, y = u.split([self.spec.latent, self.spec.upper_latent], -1)
        mean, log_sd = self.networks.moments("upper_decoder", y)
        return mean + torch.exp(log_sd) * noise

    def _typed(self, values: Tensor) -> Tensor:
        return values.to(self.parameters["decoder.0.weight"])

    def _take_output(self, decoder: str) -> None:
        """Set the distribution of x given z, and networks of the widths that it needs."""
        spec = self.spec
        if decoder == "bernoulli":
            self.output: Output = Bernoulli()
        else:
            self.output = Gaussian(SQUARED_ERROR_SD if decoder == "squared_error" else spec.output_sd, spec.least_sd)
        widths = {
            "encoder": [self.dimension, *spec.hidden, 2 * spec.latent],
            "decoder": [spec.latent, *reversed(spec.hidden), self.output.width(self.dimension)],
        }
        if spec.upper_latent is not None:
            widths["upper_encoder"] = [spec.latent, *spec.upper_hidden, 2 * spec.upper_latent]
            widths["upper_decoder"] = [spec.upper_latent, *reversed(spec.upper_hidden), 2 * spec.latent]
        self.networks = Networks(widths, spec.activation)

    def _initialise(self, data: Dataset, session: Session) -> None:
        """Glorot's weights; the decoder's last bias gives the data's moments, dimension by dimension."""
        if self.spec.decoder == "auto":
            self._take_output("bernoulli" if data.values == "binary" else "gaussian")
        if data.values not in self.output.values:
            known = "bernoulli" if data.values == "binary" else "gaussian or squared_error"
            raise CannotBeDone(
                f"the {self.spec.decoder} decoder is not defined on the {data.values} values of '{data.name}': set "
                f"decoder to {known}, or take a dataset of {' or '.join(sorted(self.output.values))} values."
            )
        self.networks.initialise(session.generator)
        bias = torch.from_numpy(self.output.first_bias(np.asarray(data.train.x)))
        self.parameters[f"decoder.{self.networks.last('decoder')}.bias"] = bias.to(session.device, torch.float32)
        for value in self.parameters.values():
            value.requires_grad_(True)


def _reparametrised(mean: Tensor, log_sd: Tensor, noise: Tensor) -> Tensor:
    """mean + sd * noise."""
    return torch.addcmul(mean, noise, torch.exp(log_sd))


def _divergence(mean: Tensor, log_sd: Tensor, z: Tensor, noise: Tensor, closed_form: bool) -> Tensor:
    """log N(z; mean, sd^2) - log N(z; 0, I) at a draw z = mean + sd noise, or its expectation: (..., m) -> (...)."""
    if closed_form:
        return 0.5 * (mean.square() + torch.exp(2 * log_sd) - 1).sum(-1) - log_sd.sum(-1)
    return 0.5 * (z.square().sum(-1) - noise.square().sum(-1)) - log_sd.sum(-1)
