"""What every label method reads first: the gradient of the classification head, and the number of examples behind it.

With logits z = V h + b and mean softmax cross-entropy over K examples, dL/dV_n = mean_k (p_kn - [y_k = n]) h_k and
dL/db_n = mean_k (p_kn - [y_k = n]), where p_k = softmax(z_k). The counts obey c_n = sum_k p_kn - K dL/db_n exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedseal.attack.evidence.evidence import Course, Evidence, course_of
from fedseal.attack.evidence.structure import Linear
from fedseal.criterion import Criterion
from fedseal.errors import BadConfig, UnfitModel, UnfitUpdate, UnknownToAdversary
from fedseal.types import Observation, Round


@dataclass(frozen=True)
class Head:
    """The head's part of one update, in float64.

    Args:
        gradient: by the weight, `(classes, features)`; after local steps their mean over the steps.
        bias_gradient: by the bias, `(classes,)`; None where the head has none or it is not sent.
        count: number of examples K.
        steps: local steps; 1 for a gradient.
        layer: the names of the head's tensors.
        criterion: the loss, without a factor and averaged.
        error: by how much rounding of the weights may put an entry of the gradients off.
    """

    gradient: Tensor
    bias_gradient: Tensor | None
    count: int
    steps: int
    layer: Linear
    criterion: Criterion
    error: float = 0.0

    def counts(self, softmax: Tensor, by_logits: Tensor) -> Tensor:
        """How often each class occurs `(classes,)`, in fractions, if all examples had this softmax.

        From K db = sum_k (a_k p_k - m_k), with m_k the mass of the example's label and a_k its sum: (1 - s) w_n c_n =
        A p_n - s / C w_n S - D db_n with S the sum of the examples' weights, which the counts' own sum gives.

        Args:
            softmax: the mean over the examples, `(classes,)`.
            by_logits: the mean gradient by the logits, `(classes,)`.
        """
        criterion, total = self.criterion, float(self.count)
        if criterion.hard:
            return total * (softmax - by_logits)
        weights, share = criterion.weights.to(softmax), criterion.smoothing / self.classes
        hard = (1 - criterion.smoothing) * weights
        # in units of S: the sum of all masses is (1 - s) S + s / C K W
        if criterion.reduction == "weights":
            slope = (1 - criterion.smoothing) * softmax - by_logits
            rest = share * total * (weights.sum() * softmax - weights)
        else:
            slope = (1 - criterion.smoothing) * softmax
            rest = share * total * (weights.sum() * softmax - weights) - total * by_logits
        size = (total - (rest / hard).sum()) / (slope / hard).sum()
        return (size * slope + rest) / hard

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.gradient)

    @property
    def row_sums(self) -> Tensor:
        """The gradient summed over the features, `(classes,)`."""
        return self.gradient.sum(1)


def read_head(observation: Observation, who: str, *, round: Round | None = None) -> Head:
    """The head's gradient and the batch size, or the error that says which of them is missing.

    Raises:
        UnfitModel: no linear head.
        UnknownToAdversary: batch size or local training are withheld.
        UnfitUpdate: the head's gradient is not sent or zero, or its rank exceeds the batch size named.
        BadConfig: another loss than cross-entropy (summed, weighted and smoothed ones are read as well), or a batch
            size that is no number of examples.
    """
    round = observation.rounds[0] if round is None else round
    evidence = Evidence(observation)
    layer = evidence.structure.head
    if layer is None:
        raise UnfitModel(
            f"{who} found no classification head: the model's scores are not made by a fully connected layer",
            "attack a model that ends in nn.Linear or F.linear on (N, features)",
        )
    criterion = evidence.criterion
    if criterion.kind != "cross_entropy":
        fact = criterion.obstacle or f"{who} inverts cross-entropy, and the loss is {criterion.describe()}"
        raise BadConfig(fact, "use a joint attack")
    tensors = round.update.tensors
    if layer.weight not in tensors:
        raise UnfitUpdate(
            f"{who} needs the gradient of the head's weight '{layer.weight}', which is not part of the update",
            "unfreeze the head, or match inputs and labels together (recipe dlg)",
        )
    scale, course, count = _scale(observation, evidence, who)
    gradient = _undecayed(round, layer.weight, scale, course)
    bias = None if layer.bias not in tensors else _undecayed(round, layer.bias or "", scale, course)
    if not bool(gradient.any()):
        raise UnfitUpdate(f"the gradient of the head's weight '{layer.weight}' is zero", "it holds no labels to read")
    steps = 1 if course is None else len(course.shares)
    error = 0.0 if course is None else _rounding(round, layer, evidence) * abs(scale) * steps
    head = Head(gradient, bias, count, steps, layer, evidence.unit, error)
    _check_rank(head, evidence, who)
    return head


def _scale(observation: Observation, evidence: Evidence, who: str) -> tuple[float, Course | None, int]:
    """The factor from update to mean gradient over the local steps, what these do to a weight, and the number of
    examples.
    """
    update = observation.update
    count = evidence.batch_size
    if count is None:
        raise UnknownToAdversary(
            f"{who} needs the number of examples, which the threat model '{observation.threat}' withholds and the "
            "rank of the head's gradient does not give",
            "grant 'num_examples'",
        )
    if count < 1:
        raise BadConfig(f"the update names {count} examples", "an update is made from at least one")
    if update.kind == "gradient":
        return evidence.criterion.scale(count), None, count
    training = observation.require_training(who)
    assert training.lr is not None
    if training.optimizer != "sgd":
        raise UnfitUpdate(
            f"{who} reads the sum of the local gradients off the update, and {training.optimizer} rescales every one",
            "match inputs and labels together by simulating the client",
        )
    course = course_of(training, count)
    moved = sum(course.shares)
    if moved <= 0:
        raise UnfitUpdate(
            f"learning rate {training.lr:g} times weight decay {training.weight_decay:g} turns the weights over, and "
            "the gradients of the local steps cancel",
            "match inputs and labels together by simulating the client",
        )
    per_step = evidence.criterion.scale(min(count, training.batch_size or count))
    return -per_step / moved, course, count


def _undecayed(round: Round, name: str, scale: float, course: Course | None) -> Tensor:
    """The mean gradient of one tensor, without the weight decay that the client added to it."""
    sent = round.update.tensors[name].double()
    if course is None or course.kept == 1.0 or round.state is None:
        return sent * scale
    return (sent - (course.kept - 1.0) * round.state[name].double()) * scale


def _rounding(round: Round, layer: Linear, evidence: Evidence) -> float:
    """By how much an entry of a difference of the head's weights may be off, which were rounded to their own size."""
    if round.state is None:
        return 0.0
    names = [name for name in (layer.weight, layer.bias) if name is not None and name in round.update.tensors]
    return evidence.eps * max(float(round.state[name].abs().max()) for name in names)


def _check_rank(head: Head, evidence: Evidence, who: str) -> None:
    """A gradient of K examples has rank K at most: one of higher rank was made from more than were named."""
    if evidence.observation.update.kind != "gradient" or not undefended(evidence.observation):
        return
    if evidence.head_factors is None or head.count >= min(head.gradient.shape):
        return
    values = evidence.head_factors[1]
    rank = int((values > values[0] * 1e3 * evidence.eps).sum())
    if rank > head.count:
        raise UnfitUpdate(
            f"{who} was told of {head.count} examples, and the head's gradient has rank {rank}",
            f"at least {rank} examples made this update; correct num_examples, or name the defense that added noise",
        )


def undefended(observation: Observation) -> bool:
    """Whether no defense, and no coarser number format, is known to have changed the update."""
    return not observation.defense and not any(round.update.rounding for round in observation.rounds)


def bias_residual(head: Head, softmax_sum: Tensor, counts: Tensor) -> float | None:
    """How far counts are from c = sum p - K db, relative to K db; None for a head without a bias gradient.

    Args:
        softmax_sum: the probabilities `(classes,)` that the method believes, summed over the examples.
    """
    if head.bias_gradient is None or not head.criterion.hard:
        return None
    observed = head.count * head.bias_gradient
    return float((observed - (softmax_sum - counts)).norm() / observed.norm().clamp_min(1e-300))


def needs_hard(head: Head, who: str) -> None:
    """Refuse a loss under which classes weigh differently or labels are smoothed.

    Raises:
        BadConfig: it is one.
    """
    if not head.criterion.hard:
        raise BadConfig(
            f"{who} reads hard labels that weigh the same, and the loss is {head.criterion.describe()}",
            "use geng, geng_bias or best",
        )


def needs_bias(head: Head, who: str) -> Tensor:
    """The head's bias gradient `(classes,)`.

    Raises:
        UnfitUpdate: the head has no bias, or its gradient is not sent.
    """
    if head.bias_gradient is None:
        raise UnfitUpdate(
            f"{who} reads the gradient of the head's bias, and the head's '{head.layer.weight}' comes without one",
            "use a form that reads the weight's gradient: geng, llg or moments",
        )
    return head.bias_gradient
