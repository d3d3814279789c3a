"""What Russet's speed is, beside what was asked for and what else there is.

    python -m tests.benchmarks [--rounds 3] [--quick] [--only NAME] [--llama FOLDER] [--url http://127.0.0.1:8000]

Parts: plan (the scheduler's), kernels (the decoder alone), engine (scheduler, worker and sampling, without HTTP),
speculation (with drafts and without), mixed (rows that ask for different things, beside plain ones), moe (choosing and
paging experts), long (at 4,096 tokens of context), busy (beside a process that keeps a core busy), larger (a 1B-class
shape), accuracy (beside float32), itl (inter-token latency beside long prompts), prefix (prompts that begin alike), kv
(quantized KV beside full precision), sessions (looking them up), graph (its neighbours), memory (search, inserts and
restart with 100,000 entries, and embedding), witness (the log at 2,000 entries a second, and a kill amid them),
documents (added, found, and read again from the prefix cache), reranking (their order by usage), overhead (gateway,
router and scheduler around a worker that answers at once), fleet (which replica is chosen, in simulated time), routing
(what that and the choice of a model cost), serving (the whole system over HTTP) and workloads (chat, retrieval and
batch work, cold and warm, and a session after a restart). Those of speed stand beside llama.cpp, serving and workloads
beside mlx-lm's server, where tests/benchmarks/install-peers installed them.
Each figure is a median with its 95 % bootstrap interval over interleaved rounds; every sample is kept as a JSON line in
.bench/, with pictures of them. Run it on a quiet machine: each table says how busy others kept it. Beside these, on
their own: tests.benchmarks.forward, .linear, .plan, .sampling, .nearest, .exposed_gap, .perplexity,
.schemas, .grammars, .quality, .reflect and .cost.
"""

import argparse
import asyncio
import sys
import time

from rich.console import Console

from actors.base.errors import RussetError
from tests.benchmarks import (
    accuracy,
    decoding,
    documents,
    engine,
    fleet,
    graph,
    itl,
    kv,
    larger,
    memory,
    mixed,
    moe,
    overhead,
    picture,
    plan,
    prefix,
    reranking,
    routing,
    scaling,
    serving,
    sessions,
    speculation,
    witness,
    workloads,
)
from tests.benchmarks.harness import ROOT, Options, keep, missed, show, take

PARTS = {
    part.name: part
    for part in (
        plan.PART,
        decoding.KERNELS,
        engine.PART,
        speculation.PART,
        mixed.PART,
        moe.PART,
        decoding.LONG_CONTEXTS,
        decoding.BUSY_MACHINE,
        larger.PART,
        accuracy.PART,
        itl.PART,
        prefix.PART,
        kv.PART,
        sessions.PART,
        graph.PART,
        memory.PART,
        witness.PART,
        documents.PART,
        reranking.PART,
        routing.PART,
        overhead.PART,
        scaling.PART,
        fleet.PART,
        serving.PART,
        workloads.PART,
    )
}


def main() -> int:
    """Run the chosen parts; 1 where one could not be run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=None, help="rounds of each part (default 3; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="few requests, one round and no mlx-lm: does it run?")
    parser.add_argument("--only", choices=list(PARTS), action="append", help="this part; may be repeated")
    parser.add_argument(
        "--url",
        help="serving: a Russet that runs already (it then counts as others), instead of a `russet serve` of our own",
    )
    parser.add_argument("--llama", default=Options().llama, help="folder of llama.cpp's programs (default %(default)s)")
    chosen = parser.parse_args()
    url = chosen.url and chosen.url.rstrip("/").removesuffix("/v1")
    options = Options(chosen.rounds or (1 if chosen.quick else 3), chosen.quick, url, chosen.llama)
    out = Console() if sys.stdout.isatty() else Console(width=140)
    progress = Console(stderr=True)
    began, reports = time.monotonic(), []
    for name in chosen.only or PARTS:
        with progress.status(name) as status:
            try:
                report = asyncio.run(
                    take(PARTS[name], options, lambda what, name=name: status.update(f"{name}: {what}"))
                )
            except RussetError as error:
                progress.print(f"[red]{name}:[/red] {error}", highlight=False)
                return 1
        reports.append(report)
        show(report, out)
    for line in missed(reports):
        out.print(f"[red]missed[/red]  {line}", highlight=False)
    kept = keep(reports, options)
    for path in (kept, *picture.draw(kept)):
        out.print(path.relative_to(ROOT))
    out.print(f"{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
