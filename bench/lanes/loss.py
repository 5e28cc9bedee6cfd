"""What is left when lanes are lost: ``python -m bench.lanes.loss [--data-folder FOLDER]``.

A rough first stage ranks the pool, each of four lanes scores its share exactly, and some lanes
never answer: a simulated schedule. Prints recall@10 for each number of lost lanes, on average over
which, and the break-even share of lanes in time; ``--picture FILE`` draws it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench import machine
from bench.lanes import common
from bench.lanes.common import Answer, K, Problem
from lanewise.lanes import Setting

N_LANES = 4


def variants(problem: Problem, k_lane: int) -> dict[str, Answer]:
    """Return every way to spend the budget, by name."""
    made = common.without_lanes(problem, Setting(N_LANES, k_lane))
    for scheme in ("permute", "stratified", "owner"):
        setting = Setting(N_LANES, k_lane, scheme=scheme)
        made[f"{scheme}, alpha 1"] = common.lanes(problem, setting)
    for alpha in (0.5, 0.75):
        made[f"stratified, alpha {alpha}"] = common.lanes(
            problem, Setting(N_LANES, k_lane, alpha=alpha)
        )
    for head in sorted({K, k_lane // 2, k_lane}):
        made[f"stratified, head {head}"] = common.lanes(
            problem, Setting(N_LANES, k_lane, head=head)
        )
    plain = Setting(N_LANES, k_lane)
    made["stratified, first-stage scores"] = common.lanes(problem, plain, fallback="first-stage")
    headed = Setting(N_LANES, k_lane, head=K)
    made[f"head {K}, first-stage scores"] = common.lanes(problem, headed, fallback="first-stage")
    made["stratified, idle lanes go on"] = common.lanes(problem, plain, on_idle="continue")
    return made


STYLES = {
    "naive lanes, de-duplicated": ("#BBBBBB", "-", 4.0),
    "one index, whole budget": ("black", ":", 1.4),
    "hash shards": ("#CC79A7", "-.", 1.6),
    "stratified, alpha 1": ("#D55E00", "-", 1.8),
    f"stratified, head {K}": ("#009E73", "-", 1.8),
    "stratified, first-stage scores": ("#0072B2", "--", 1.8),
    "stratified, idle lanes go on": ("#E69F00", "-", 1.8),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = common.parser("loss", __doc__)
    parser.add_argument("--picture", metavar="FILE")
    options = parser.parse_args(arguments)
    began = machine.clocks()
    drawn = {}
    for problem in common.problems(options):
        for k_lane in (16, 64):
            made = variants(problem, k_lane)
            found = {
                who: [common.mean_recall(problem, answer, N_LANES, lost) for lost in range(N_LANES)]
                for who, answer in made.items()
            }
            share = found["naive lanes, de-duplicated"][0] / found["one index, whole budget"][0]
            n, dim = problem.base.shape
            print(
                f"\n{problem.name} {n:,} x {dim}, pool {N_LANES * k_lane} in the order of "
                f"{problem.n_subspaces}-byte codes, {N_LANES} lanes of {k_lane}: recall@{K} "
                f"(simulated loss)\n"
            )
            rows = [[who, *(f"{r:.3f}" for r in recalls)] for who, recalls in found.items()]
            print(common.table(rows, ["", "all answer", "1 lost", "2 lost", "3 lost"]))
            print(
                f"\nBreak-even: partition if more than R({k_lane})/R({N_LANES * k_lane}) = "
                f"{share:.1%} of the lanes answer in time.",
                flush=True,
            )
            drawn[f"{problem.name}, pool {N_LANES * k_lane}"] = found
    if options.picture:
        x = [float(lost) for lost in range(N_LANES)]
        common.draw(drawn, STYLES, x, f"lanes lost, of {N_LANES}", options.picture)
    machine.say_who_else_ran(began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
