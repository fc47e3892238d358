"""From tokens at places to sentences.

A decoder's row depends on what stood before it alone, so that sentences grow token by token, each step certain. An
encoder's rows depend on the whole sentence. Its equations in who stands there are linear but for the softmax's sums,
and expanded about a reading they are linear: from a token that stands in one sentence only, non-negative least squares
over all that could stand beside it, round after round, gives a first reading, and exchanging one token after another,
whichever lowers the misfit of all rows, the sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedseal.attack.text.compatibility import Board

ROUNDS = 6  # of least squares, each linear about the reading of the one before
SWEEPS = 3  # over all places of a sentence, exchanging tokens
NARROW, WIDE = 3, 3  # readings from the equations of several tokens, among likely ones and among all
SURE = 0.7  # share from which on a token's own equations are used
COMPANY = 6  # such tokens beside the anchor
EQUATIONS = 512  # of them at a time, where several tokens' are used
WORTH = 0.6  # mean share of a reading's tokens from which on exchanging some may help
LEAST = 600  # iterations of least squares; those that lead somewhere took up to 300
STARTS = 40  # first readings without a new sentence


class ReadSentence(NamedTuple):
    """Indices of a board's tokens in order, and the largest misfit of its rows."""

    rows: tuple[int, ...]
    misfit: float


def grow(board: Board, tolerance: float) -> list[ReadSentence]:
    """All sentences of a decoder: prefixes that nothing continues.

    Args:
        tolerance: misfit up to which a row counts as seen.
    """
    done: list[ReadSentence] = []
    prefixes: list[ReadSentence] = [ReadSentence((), 0.0)]
    place = 0
    while prefixes:
        here = (board.place == place).nonzero().flatten()
        longer: list[ReadSentence] = []
        for prefix in prefixes:
            misfit = board.last_misfit(prefix.rows, here) if len(here) else torch.empty(0)
            fits = (misfit <= tolerance).nonzero().flatten().tolist()
            longer += [ReadSentence((*prefix.rows, int(here[i])), max(prefix.misfit, float(misfit[i]))) for i in fits]
            if not fits and prefix.rows:
                done.append(prefix)
        prefixes, place = longer, place + 1
    return done


class Frame(NamedTuple):
    """Indices among the tokens of those that every sentence begins and ends with, as far as it is public."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def assemble(
    board: Board, *, likely: Tensor, anchors: Sequence[int], rows: int, tolerance: float, frame: Frame
) -> list[ReadSentence]:
    """The sentences of an encoder.

    Args:
        likely: which tokens of the board to look at first, `(E,)` bool.
        anchors: tokens of the board to start from, those that stand in one sentence alone first.
        rows: number of tokens in all sentences together, as the span's rank tells.
        tolerance: misfit up to which a sentence counts as found.

    Returns:
        Sentences found, and where not all were, the best readings of the others behind them.
    """
    found: list[ReadSentence] = []
    rest: list[ReadSentence] = []
    covered: set[int] = set()
    missing, tries = rows, 0
    fresh = likely.clone()  # what is likely and stands in no sentence found; of use where tokens rarely repeat
    repeated = torch.bincount(board.token[likely])[board.token] > 1  # tokens whose place is not known
    alone = set((~repeated).nonzero().flatten().tolist())
    for anchor in anchors:
        if missing <= 0 or tries >= STARTS:
            break
        if anchor in covered:
            continue
        tries += 1
        masks = [fresh, likely, *([torch.ones_like(likely)] if missing * 4 <= rows else [])]
        tried = (_from_anchor(board, mask, likely, anchor, tolerance, frame) for mask in masks)
        sentence = _first_that_fits(tried, tolerance)
        if sentence is None:
            continue
        if sentence.misfit > tolerance:
            rest.append(sentence)
        elif sentence.rows not in {other.rows for other in found}:
            found.append(sentence)
            covered |= set(sentence.rows)
            missing -= len(sentence.rows)
            tries = 0
            fresh[list(alone & set(sentence.rows))] = False
    for sentence in sorted(rest, key=lambda s: s.misfit):
        if missing >= len(sentence.rows) and len(covered & set(sentence.rows)) <= len(sentence.rows) // 2:
            found.append(sentence)
            covered |= set(sentence.rows)
            missing -= len(sentence.rows)
    return found


def _first_that_fits(sentences: Iterable[ReadSentence | None], tolerance: float) -> ReadSentence | None:
    """The first within the tolerance, else the nearest."""
    nearest: ReadSentence | None = None
    for sentence in sentences:
        if sentence is not None and (nearest is None or sentence.misfit < nearest.misfit):
            nearest = sentence
        if nearest is not None and nearest.misfit <= tolerance:
            break
    return nearest


def _from_anchor(
    board: Board, fresh: Tensor, likely: Tensor, anchor: int, tolerance: float, frame: Frame
) -> ReadSentence | None:
    shares = neighbors(board, [anchor], fresh, rounds=ROUNDS)
    rows = _reading(board, anchor, shares, frame)
    for stage in (*[likely] * NARROW, *[torch.ones_like(likely)] * WIDE):
        if rows is None:
            return None
        misfit = board.misfit(rows)
        if float(misfit.max()) <= tolerance:
            break
        sure = [r for r in misfit.argsort().tolist() if rows[r] != anchor and float(shares[rows[r]]) > SURE][:COMPANY]
        if len(sure) < (COMPANY // 2 if stage.all() else 1):  # too little is known to look among all
            break
        company = [anchor, *(rows[r] for r in sure)]
        shares = neighbors(board, company, stage, rounds=2, shares=shares)
        rows = _reading(board, anchor, shares, frame)
    if rows is None:
        return None
    if float(shares[rows].mean()) < WORTH:
        return ReadSentence(tuple(rows), float(board.misfit(rows).max()))
    return _improved(board, rows, tolerance, frame)


def neighbors(
    board: Board, rows: Sequence[int], likely: Tensor, *, rounds: int, shares: Tensor | None = None
) -> Tensor:
    """How likely each token of the board stands beside some that stand in one sentence, from their equations, `(E,)`.

    Args:
        rows: tokens of the board, at different places.
        likely: those to look at, `(E,)` bool.
        shares: a first guess.
    """
    from scipy.optimize import nnls  # late: it takes longer than all of fedseal's own modules

    length = int(board.place.max()) + 1
    known = torch.tensor(list(rows), device=board.place.device)
    taken = torch.isin(board.place, board.place[known])
    among = torch.cat([(likely & ~taken).nonzero().flatten(), known])
    place, count = board.place[among], len(among)
    scores = torch.einsum("ihc,jhc->ijh", board.query[known], board.key[among])
    weights = (scores - scores.amax(1, keepdim=True)).exp()
    if shares is None:
        guess = (1.0 / torch.bincount(place, minlength=length).clamp_min(1)[place]).double()
    else:
        guess = shares[among].clamp_min(1e-9)
    guess[-len(known) :] = 1.0
    # one token at every place; behind the end of the sentence none, for which a slack stands
    one = torch.zeros(length, count + length, dtype=torch.float64)
    one[place.cpu(), torch.arange(count)] = 1.0
    one[torch.arange(length), count + torch.arange(length)] = 1.0
    one[: int(board.place[known].max()) + 1, count:] = 0.0
    directions = min(board.mix.shape[-1], -(-EQUATIONS // len(known)))
    mix = board.mix[among, :, :directions]
    for _ in range(rounds):
        scaled = weights / torch.einsum("j,ijh->ih", guess, weights)[:, None]
        columns = mix.new_zeros(len(known), count, directions)
        seen = mix.new_zeros(len(known), directions)
        for head in range(mix.shape[1]):  # head by head: small matrix products in a row take many times as long
            here = (guess * scaled[:, :, head]) @ mix[:, head]
            columns.addcmul_(scaled[:, :, head, None], mix[None, :, head] - here[:, None])
            seen += here
        columns = columns.transpose(1, 2) / board.size[known][:, None, None]
        wanted = -(board.base[known, :directions] + seen) / board.size[known][:, None]
        left, right = columns.flatten(0, 1).cpu(), wanted.flatten().cpu()
        pull = float(left.norm(dim=0).mean())
        equations = torch.cat([torch.cat([left, left.new_zeros(len(left), length)], 1), one * pull])
        target = torch.cat([right, torch.full((length,), pull, dtype=torch.float64)])
        try:
            solution, _rest = nnls(equations.numpy(), target.numpy(), maxiter=LEAST)
        except RuntimeError:  # it did not end in time: the round before stands
            break
        guess = torch.tensor(solution[:count], device=board.base.device).clamp_min(1e-9)
    full = board.base.new_zeros(len(board))
    full[among] = guess
    return full


def _reading(board: Board, anchor: int, shares: Tensor, frame: Frame) -> list[int] | None:
    """The likeliest token at every place, up to where the sentence ends."""
    length = int(board.place.max()) + 1
    rows: list[int] = []
    for place in range(length):
        here = (board.place == place).nonzero().flatten()
        if len(here) == 0:
            break
        mass = float(shares[here].sum())
        if place > int(board.place[anchor]) and mass < 0.5:
            break
        rows.append(int(here[shares[here].argmax()]))
        ends = frame.after and int(board.token[rows[-1]]) == frame.after[-1]
        if ends and place > int(board.place[anchor]):
            break
    return rows if len(rows) > int(board.place[anchor]) else None


def _improved(board: Board, rows: list[int], tolerance: float, frame: Frame) -> ReadSentence:
    """Exchange tokens, lengthen and shorten, as long as the rows' misfit falls."""
    here = {place: (board.place == place).nonzero().flatten() for place in range(int(board.place.max()) + 1)}
    best = float(_cost(board.misfit(rows)))
    for _ in range(SWEEPS):
        if float(board.misfit(rows).max()) <= tolerance:
            break
        before = best
        order = board.misfit(rows).argsort(descending=True).tolist()
        for at in order:
            if len(here[at]) < 2:
                continue
            costs = _cost(board.exchange(rows, at, here[at]))
            if float(costs.min()) < best * (1 - 1e-9):
                best, rows[at] = float(costs.min()), int(here[at][costs.argmin()])
        rows, best = _other_length(board, rows, best, here, frame)
        if best > before * (1 - 1e-6):
            break
    return ReadSentence(tuple(rows), float(board.misfit(rows).max()))


def _cost(misfit: Tensor) -> Tensor:
    """Of one sentence or several `(..., L)`: the mean misfit, in which rows that fit count for more than their size."""
    return (misfit + 1e-7).log().mean(-1) + 20.0


def _other_length(
    board: Board, rows: list[int], best: float, here: dict[int, Tensor], frame: Frame
) -> tuple[list[int], float]:
    """The sentence with its last token moved: some dropped before it, or one put in."""
    closing = frame.after[-1] if frame.after else None
    tried: list[list[int]] = []
    for end in range(max(2, len(rows) - 4), min(len(rows) + 4, len(here)) + 1):
        if end == len(rows):
            continue
        kept = rows[: min(end, len(rows))]
        if end > len(rows):
            kept = kept[:-1] if closing is not None else kept
        while len(kept) < end:
            place = len(kept)
            if len(here[place]) == 0:
                break
            options = here[place]
            kept.append(int(options[_cost(board.exchange([*kept, int(options[0])], place, options)).argmin()]))
        if closing is not None:
            ends = [int(i) for i in here.get(end - 1, []) if int(board.token[i]) == closing]
            if not ends:
                continue
            kept[-1:] = ends[:1]
        if len(kept) == end:
            tried.append(kept)
    for other in tried:
        cost = float(_cost(board.misfit(other)))
        if cost < best * (1 - 1e-9):
            best, rows = cost, other
    return rows, best
