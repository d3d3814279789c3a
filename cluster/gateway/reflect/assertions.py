"""What an answer must be, checked. Pure: a text, what was asked of it, and its quality where that was scored."""

from collections.abc import Sequence
from typing import NamedTuple

from actors.base.conformance import Verdict, judge
from protos.gen import inference_pb2

SHOWN_CHARS, WANTED_CHARS = 80, 240
"""Of a text, and of a language, what a problem quotes."""
FLOAT32 = 1e-6
"""What a quality may lose on the wire."""


class Judgement(NamedTuple):
    """How far an answer is what was asked."""

    met: float
    """The mean over all that was asked, 0 to 1; 1 exactly where it passed."""
    problems: tuple[str, ...]
    """What is wrong with it, in words that the model is told."""

    @property
    def passed(self) -> bool:
        """Whether it is all that was asked."""
        return not self.problems


def asserted(request: inference_pb2.ChatRequest) -> list[inference_pb2.Grammar]:
    """The languages that the answer has to be of, without being held to them."""
    return [each.grammar for each in request.reflect.assertions if each.HasField("grammar")]


def demanded(request: inference_pb2.ChatRequest) -> list[inference_pb2.Grammar]:
    """The languages that the answer has to be of: the one that it is held to, then those asserted."""
    own = [request.decoding.grammar] if request.decoding.HasField("grammar") else []
    return [*own, *asserted(request)]


def judged(text: str, request: inference_pb2.ChatRequest, quality: float | str) -> Judgement:
    """Judge an answer. `quality`: its score, or why there is none; only read where a quality is asserted.

    Raises InvalidArgument for a grammar that cannot be read.
    """
    verdicts = [_explained(judge(text, grammar), grammar) for grammar in demanded(request)]
    verdicts += [_verdict(text, each, quality) for each in request.reflect.assertions if not each.HasField("grammar")]
    problems = tuple(problem for verdict in verdicts for problem in verdict.problems)
    return Judgement(sum(verdict.share for verdict in verdicts) / len(verdicts), problems)


def asks_quality(assertions: Sequence[inference_pb2.Assertion]) -> bool:
    """Whether an answer has to be scored to be judged."""
    return any(each.HasField("quality") for each in assertions)


def _explained(verdict: Verdict, grammar: inference_pb2.Grammar) -> Verdict:
    """With what would be accepted, where a problem is that there is nothing to it."""
    if verdict.share == 1:
        return verdict
    match grammar.WhichOneof("language"):
        case "json_schema":
            wanted = f"accepted is JSON of the schema {_cut(grammar.json_schema)}" if verdict.share == 0 else ""
        case "regex":
            wanted = f"accepted is what the regular expression {_cut(grammar.regex)} matches"
        case "choice":
            wanted = f"accepted is one of {_cut(', '.join(map(repr, grammar.choice.texts)))}"
        case _:
            wanted = f"accepted is what is of the grammar {_cut(grammar.lark or grammar.gbnf)}"
    return Verdict(verdict.share, (*verdict.problems, wanted) if wanted else verdict.problems)


def _verdict(text: str, asserted: inference_pb2.Assertion, quality: float | str) -> Verdict:
    match asserted.WhichOneof("assertion"):
        case "contains":
            return _whether(asserted.contains in text, f"it does not contain {_shown(asserted.contains)}")
        case "lacks":
            return _whether(asserted.lacks not in text, f"it contains {_shown(asserted.lacks)}")
        case "max_chars":
            most = asserted.max_chars
            if len(text) <= most:
                return Verdict(1.0)
            return Verdict(most / len(text), (f"it has {len(text)} characters; accepted are up to {most}",))
        case _:
            if isinstance(quality, str):
                return Verdict(0.0, (f"its quality is not known: {quality}",))
            if quality + FLOAT32 >= asserted.quality:
                return Verdict(1.0)
            return Verdict(
                quality / asserted.quality, (f"its quality is {quality:.2f}; accepted is {asserted.quality:.2f}",)
            )


def _whether(holds: bool, problem: str) -> Verdict:
    return Verdict(1.0) if holds else Verdict(0.0, (problem,))


def _shown(text: str) -> str:
    return repr(_cut(text, SHOWN_CHARS))


def _cut(text: str, most: int = WANTED_CHARS) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
