"""How to go about the next attempt, which attempt is the answer, and how sure of it to be. Pure.

    plain -> explain -> constrain, where what is asserted can be enforced
                        close, where the request is held to a grammar of its own and was cut
                        explain, where neither is to be had

The last resort is taken last, or second where there are only two attempts: what is enforced is met, but a model that is
told may find the better words.
"""

from collections.abc import Sequence
from enum import StrEnum

from cluster.gateway.reflect.assertions import Judgement
from cluster.gateway.seeds import derived_seed
from protos.gen import inference_pb2

COOLING = 0.5
"""What each further attempt multiplies the temperature by."""
PROBLEMS = 5
PROBLEM_CHARS = 300
ANSWER_CHARS = 4000
"""Of problems and of the answer that had them, what the model is told."""


class Strategy(StrEnum):
    """What an attempt does."""

    PLAIN = "plain"
    """The request as it is."""
    EXPLAIN = "explain"
    """The model reads its last answer and what was wrong with it; another seed, a lower temperature."""
    CONSTRAIN = "constrain"
    """The same, and the answer is held to what is asserted."""
    CLOSE = "close"
    """The same, and what the request's own grammar begins is closed within its tokens."""


def next_strategy(made: int, allowed: int, *, held: bool, enforceable: bool) -> Strategy:
    """Of attempt number `made` (from 0) of `allowed`. held: to a grammar; enforceable: it could be."""
    if made == 0:
        return Strategy.PLAIN
    if made + 1 == allowed:
        if held:
            return Strategy.CLOSE
        if enforceable:
            return Strategy.CONSTRAIN
    return Strategy.EXPLAIN


def attempt_request(
    asked: inference_pb2.ChatRequest,
    strategy: Strategy,
    made: int,
    answer: str,
    problems: Sequence[str],
    grammar: inference_pb2.Grammar | None,
) -> inference_pb2.ChatRequest:
    """The request of attempt number `made` (from 0) after one that answered `answer` and had `problems`.

    `grammar`: what it can be held to, if anything.
    """
    request = inference_pb2.ChatRequest()
    request.CopyFrom(asked)
    request.ClearField("reflect")
    if strategy is Strategy.PLAIN:
        return request
    request.messages.add(role="assistant", content=answer[:ANSWER_CHARS])
    request.messages.add(role="user", content=explanation(problems))
    sampling = request.decoding.sampling
    sampling.temperature = (sampling.temperature if sampling.HasField("temperature") else 1.0) * COOLING**made
    if sampling.HasField("seed"):
        sampling.seed = derived_seed(sampling.seed, made)
    if strategy is Strategy.CONSTRAIN and grammar is not None:
        request.decoding.grammar.CopyFrom(grammar)
    if strategy in (Strategy.CONSTRAIN, Strategy.CLOSE):
        request.decoding.grammar.close = True
    return request


def explanation(problems: Sequence[str]) -> str:
    """What the model is told of its last answer."""
    told = [problem if len(problem) <= PROBLEM_CHARS else f"{problem[:PROBLEM_CHARS]}..." for problem in problems]
    listed = "\n".join(f"- {problem}" for problem in told[:PROBLEMS])
    return (
        f"That answer is not accepted:\n{listed}\nAnswer again, whole and without these faults, and say nothing else."
    )


def best(judgements: Sequence[Judgement]) -> int:
    """Which is the answer: the first that passed, or the first of those that met most."""
    return max(range(len(judgements)), key=lambda at: (judgements[at].passed, judgements[at].met, -at))


def confidence(judgements: Sequence[Judgement], quality: float | None) -> float:
    """How sure to be of the best one, 0 to 1: what it met, times how readily, times its quality where that is known.

    How readily is (1 if it passed + 1) / (attempts + 1), as the rule of succession has it: 1 for a first attempt that
    passed, 1/2 for a third.
    """
    chosen = judgements[best(judgements)]
    readily = (chosen.passed + 1) / (len(judgements) + 1)
    return chosen.met * readily * (1.0 if quality is None else quality)
