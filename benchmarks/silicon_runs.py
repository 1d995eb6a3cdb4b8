"""What the public serving points do not say of the runs that they are of, by who ran what when.

Nothing here looks at a prediction.
"""

from __future__ import annotations

from silicon_points import Case

from servecast.compiler.errors import UserError

BUG_CLIENTS, BUG_UNTIL = 512, "2025-12-08"
"""Of gpt-oss on H100 with vLLM. SOURCE: github.com/SemiAnalysisAI/InferenceX, pull request 310,
"`--max-concurrency` hard-coded to 512 instead of `$CONC`": the engine's running limit and the number of
prompts followed $CONC, which the rows do not tell."""

CROWDED_FLEETS = "nvcr.io/nvidia/ai-dynamo/tensorrtllm-runtime:0.9.0"
"""In this image's runs the time per token follows the fleet's clients, not an engine's batch: of Qwen3-32B on
GB200 it is 8 ms with one client and 21 with two, each alone on an engine, then 51, 94, 103, 133 and 72 with
8 to 128 clients; of DeepSeek-R1 on B200 85 to 89 ms with 40 to 96 clients."""

DRAFTING_RUNS = {
    ("trtllm", "1.1.0rc2.post2"): ("2026-01-14",),
    ("trtllm", "1.2.0rc6.post3"): ("2026-02-05", "2026-02-06"),
}
"""Versions and days of InferenceX's dsr1-{fp4-b200,fp8-b200,fp8-h200}-trt-mtp, whose rows do not say that
they draft. SOURCE: github.com/SemiAnalysisAI/InferenceX, pull requests 392 (which adds them), 642 (which
alone takes 1.2.0rc6.post3), 1487 to 1489 (how old the last runs are, with drafts and without)."""


def check_protocol(case: Case) -> None:
    """
    Raises:
        UserError: what the row says is not what its engine ran.
    """
    bug = "gpt-oss" in case.model and (case.backend, case.system) == ("vllm", "h100_sxm")
    if bug and case.concurrency == BUG_CLIENTS and case.measured <= BUG_UNTIL:
        raise UserError("512 clients by a script's bug: engine and prompts had another number")
    if not case.told:
        raise UserError("the row tells no clients, only an engine's largest batch")
    if case.image == CROWDED_FLEETS and case.fleet_clients > 1:
        raise UserError("a fleet whose time per token follows its clients, not an engine's batch")


def drafts(case: Case) -> bool:
    """Whether a point is of a run that drafts."""
    return case.measured in DRAFTING_RUNS.get((case.backend, case.version), ())
