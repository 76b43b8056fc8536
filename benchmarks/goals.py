"""What every benchmark must reach: one table, read when a record is written and when records are checked.

A goal stands about 20 % inside what was reached, or where a user would begin to notice. Figures that are only reported
have no goal. Where a miss is accepted the reason is written here, beside the goal, and copied into the record.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Goal:
    """What one figure must reach.

    Attributes:
        reach: The limit, in the figure's unit.
        order: ``">="`` where more is better, ``"<="`` where less is.
        accepted: Why a miss is accepted for now; empty where it is not.
    """

    reach: float
    order: Literal[">=", "<="] = ">="
    accepted: str = ""

    def met(self, value: float | None) -> bool:
        """Whether a value reaches the goal; one that is undefined (None or not finite) never does."""
        if value is None or not math.isfinite(value):
            return False
        return value >= self.reach if self.order == ">=" else value <= self.reach


Goals = Mapping[str, Goal]
"""Figure name -> goal."""


def at_least(reach: float, *, accepted: str = "") -> Goal:
    """A goal for a figure of which more is better."""
    return Goal(reach=reach, accepted=accepted)


def at_most(reach: float, *, accepted: str = "") -> Goal:
    """A goal for a figure of which less is better."""
    return Goal(reach=reach, order="<=", accepted=accepted)


_SMALL_OPERATIONS = (
    "on a linear model an iteration is some thirty small tensor operations and one draw of noise; those that could go "
    "without changing a bit of the plans have gone, and what is left (the draw, the spread, the final evaluation) needs a "
    "change of results or a compiled loop"
)

_PUSHT = (
    "50 asked labels come within 3.3 points and are worth as much as 90 at random, of which 90 do not come within 2 points either; a T of "
    "any pose is described by mean colours of coarse parts, which say little of an overlap: better descriptions are the remedy"
)
_CONTACT = (
    "26.1, 26.5 and 26.5 dB; the contact model decides it: true proprioception and true poses at the start change little, and true poses "
    "drawn are worth 1.6 dB at 16 steps; neither wider networks, nor looks as an input, nor places averaged over the frames seen gain anything"
)
_NEARLY = ".947 in one world, by either reading; which checkpoints change places has not been looked at"
_COST = (
    "where no thing is found, as in Reacher after 300 steps of its robot, training takes half of what is predicted; where one is, 24 to 46 % "
    "more: what is done once for each frame was counted too low, which has been corrected since"
)
_PUSHER = (
    "one seed; what torques do to seven joints is known ten times worse than Reacher's two (.13 standard deviations after 16 actions), and the "
    "hand, a few pixels of the table's shade, is drawn only where the arm often is"
)
_SPINNER = (
    "one seed; the spinner is turned otherwise than in truth after it was struck, since what the canvas holds of it is blurred and its "
    "looks are codes without an angle; what the finger does when it strikes is not known well either"
)
_SPEED = (
    "FetchPush, on the slower of two machines (the push world 21,500 and 4,700 in the same run); matrix products are a third of the time of "
    "latents, hundreds of small operations the rest, a quarter of them for the error that is expected"
)
_LEARNED = "heads learn progress from latents of few episodes; places of things, read off the same rollouts, agree better and reach the goal"
_SPREAD = (
    "the ten worlds whose latents say where things are have .24 to .91, .59 in the median; of progress that grids read after seconds of "
    "training on 90 episodes neither spread nor error model tells the error (-.15 to .16), nor does one learned from the very "
    "episodes that are measured: it is an error of reading, and heads that are an ensemble are the next thing to try"
)
_FALLS = (
    "where errors fall, as the structured finger's and reacher's do at 4 to 12 actions, trained for seconds, it says so; a spread "
    "that never falls within an episode rises in all, and tells less of the errors (by .06 to .3 where errors hardly grow)"
)
GOALS: Mapping[str, Goals] = {
    "any_plan_fetch_push": {
        "fetch_push: starts": at_least(100),
        "fetch_push: final success, planner over script": at_least(0.8),
        "fetch_push: optimism": at_most(0.1),
    },
    "any_plan_pusht": {
        "pusht: starts": at_least(100),
        "pusht: final progress, planner over script": at_least(0.8),
        "pusht: optimism": at_most(0.1),
    },
    "any_triage_fetch_push": {
        "fetch_push: checkpoints": at_least(24),
        "fetch_push: checkpoints of .2 to .8": at_least(8),
        "fetch_push: paired episodes in view": at_least(200),
        "fetch_push, places: success pearson": at_least(0.95),
        "fetch_push, places: success spearman": at_least(0.93),
        "fetch_push, places: absolute bias": at_most(0.08),
        "fetch_push, places: progress spearman": at_least(0.95),
        "fetch_push, heads: success pearson": at_least(0.95),
        "fetch_push, heads: success spearman": at_least(0.93),
        "fetch_push, heads: absolute bias": at_most(0.08, accepted=_LEARNED),
        "fetch_push, heads: progress spearman": at_least(0.95),
    },
    "any_triage_pusht": {
        "pusht: checkpoints": at_least(24),
        "pusht: checkpoints of .2 to .8": at_least(8),
        "pusht: paired episodes in view": at_least(200),
        **{
            f"pusht, {reader}: {what}": goal
            for reader in ("places", "heads")
            for what, goal in (
                ("success pearson", at_least(0.95)),
                ("success spearman", at_least(0.93)),
                ("absolute bias", at_most(0.08)),
                ("progress spearman", at_least(0.95, accepted=_NEARLY)),
            )
        },
    },
    "any_scene_choice": {
        "scenes": at_least(
            8,
            accepted="the other two, fetch_push and mountain_car, were not reached; the command goes on where it stopped",
        ),
        "scenes where the chosen is the best, or within 5 %": at_least(8, accepted="all six that were measured"),
        "choosing, largest share of the training": at_most(
            15, accepted="PushT, on a busy machine; 6 to 13 % elsewhere"
        ),
        "cost predicted, largest deviation": at_most(20, accepted=_COST),
    },
    "any_scene_fetch_push": {
        "fetch_push: thing px at 16, median": at_most(1.0),
        "fetch_push: thing px at 32, median": at_most(2.2),
        "fetch_push: thing px at 16, mean": at_most(2.0),
        "fetch_push: thing px at 32, mean": at_most(4.5),
        "fetch_push: thing there at 16": at_least(0.98),
        "fetch_push: thing there at 32": at_least(0.98),
        "fetch_push: psnr at 16": at_least(27, accepted=_CONTACT),
        "fetch_push: least psnr above copying and background": at_least(0),
        "fetch_push: training": at_most(1000),
    },
    "any_scene_fetch_colors": {
        "fetch_colors: thing there at 16": at_least(0.98),
        "fetch_colors: least psnr above copying and background": at_least(0),
    },
    "any_scene_fetch_pick": {
        "fetch_pick: thing px at 16, median": at_most(2),
        "fetch_pick: tip px at 32, median": at_most(1.2),
        "fetch_pick: least psnr above copying and background": at_least(0),
    },
    "any_scene_pusher": {
        "pusher: thing px at 16, median": at_most(2, accepted=_PUSHER),
        "pusher: tip px at 32, median": at_most(1.2, accepted=_PUSHER),
        "pusher: least psnr above copying and background": at_least(0),
    },
    "any_scene_finger": {
        "finger: thing px at 16, median": at_most(2, accepted=_SPINNER),
        "finger: tip px at 32, median": at_most(1.2, accepted=_SPINNER),
        "finger: least psnr above copying and background": at_least(0),
    },
    "any_scene_reacher": {
        "reacher: thing px at 16, median": at_most(2),
        "reacher: tip px at 32, median": at_most(1.2),
        "reacher: least psnr above copying and background": at_least(0),
    },
    "any_scene_pusht": {
        "pusht: thing px at 16, median": at_most(0.6),
        "pusht: thing px at 32, median": at_most(1.2),
        "pusht: degrees at 16, median": at_most(2.5),
        "pusht: degrees at 32, median": at_most(6),
        "pusht: least psnr above copying and background": at_least(0),
        "pusht: training": at_most(600),
    },
    "dataset_faults": {
        "planted faults read as LeRobot reads them, or named": at_least(100),
        "planted faults that were read wrongly without a word": at_most(0),
        "random recordings equal to LeRobot's reader": at_least(100),
        "gaps found (smooth, rows)": at_least(80),
        "gaps found (jerky, rows)": at_least(80),
        "gaps found (idle, rows)": at_least(80),
        "false alarms in a thousand clean episodes": at_most(2),
        "core time of decoding in a process of its own, to decoding here": at_most(1.6),
    },
    "clean_faults": {
        "clean episodes that are said to have a fault": at_most(2),
        "the same in the worst task": at_most(10),
    },
    "house": {
        "files": at_most(
            220,
            accepted="what was one noun has been merged; of the rest about 25 are one-line __init__ files, a third are one "
            "predictor, rule, task, recipe or command each, found by name, and those added are new abilities (cameras, "
            "conditions, action spaces, confined decoding, the channel to workers)",
        ),
        "functions called from the command to the first row": at_most(
            300,
            accepted="about as many as before plus what is new on the way: worker processes and their channel, fences around "
            "policies, action spaces, named cameras, conditions, limits on JSON; generator expressions are not counted",
        ),
        "most loads of the world in one process": at_most(1),
        "of these without shapes": at_most(0),
        "words to be replaced": at_most(0),
        "Gymnasium over the bare world, batch 1": at_most(0.15),
    },
    "labels": {
        "push: labels until within 2 points, asked for": at_most(50),
        "push: labels asked for over random": at_most(0.5),
        "push: balanced accuracy of all heads, all labels": at_least(0.9),
        "push: loss of all heads by 50 asked labels": at_most(2),
        "pusht: labels until within 2 points, asked for": at_most(50, accepted=_PUSHT),
        "pusht: labels asked for over random": at_most(0.5, accepted=_PUSHT),
        "pusht: loss of all heads by 50 asked labels": at_most(2, accepted=_PUSHT),
    },
    "plan_push": {
        "push_state: success in the simulator": at_least(0.98),
        "push_state: correlation of dreamed and true progress": at_least(0.9),
        "push_state: optimism of dreamed progress": at_most(0.1),
        "push: success in the simulator": at_least(0.8),
        "push: correlation of dreamed and true progress": at_least(
            0.9,
            accepted="the largest misses decide a correlation, and a few of the 800 plans bring far less than the shipped "
            "2 MB world promised; a better predictor is the remedy",
        ),
        "push: optimism of dreamed progress": at_most(0.1),
    },
    "plan_quality": {
        "LQR gap, 300 x 30, CEM": at_most(0.3),
        "LQR gap, 300 x 30, weighted, white noise": at_most(0.45),
        "LQR gap, 300 x 30, hybrid": at_most(0.01),
        "LQR gap, 512 x 5, hybrid": at_most(0.01),
        "wall, 512 x 5, open loop, hybrid": at_least(90),
        "wall, 128 x 3, closed loop, weighted (default)": at_least(90),
        "LQR excess, 128 x 3, closed loop, weighted (default)": at_most(30),
        "LQR excess, warm above cold, default and hybrid": at_most(0),
    },
    "plan_speed": {
        "worldsim cem: linear, 1 environment": at_most(1.2, accepted=_SMALL_OPERATIONS),
        "worldsim weighted: linear, 1 environment": at_most(1.2, accepted=_SMALL_OPERATIONS),
        "worldsim cem: MLP 128, 8 environments": at_most(1.1),
        "worldsim weighted: MLP 128, 8 environments": at_most(1.1),
    },
    "push_speed": {"RGB frame, 64x64": at_most(0.5), "step with pixels": at_most(1.0)},
    "reason": {
        "arrow: accuracy after SFT, the lower seed": at_least(0.9),
        "puzzle: accuracy after SFT, the lower seed": at_least(0.85),
        "permanence: accuracy after SFT, the lower seed": at_least(0.85),
        "GRPO: tasks that gain": at_least(2),
        "random rewards: tasks that gain": at_most(0),
        "warm-up, SFT and GRPO, all trainings of a seed together, the costlier seed": at_most(1200),
        "GRPO, a step of 64 replies, the costliest run": at_most(1.2),
        "judge, simulator: balanced accuracy": at_least(0.9),
        "judge, simulator: calibration error": at_most(0.05),
        "judge, dreams: balanced accuracy": at_least(0.9),
        "judge, dreams: calibration error": at_most(0.05),
        "judge, loss by encoding and decoding": at_most(0.03),
        "judge minus small head, simulator: balanced accuracy, 95 % interval, high (below 0: worse)": at_least(0),
        "judge minus small head, dreams: balanced accuracy, 95 % interval, high (below 0: worse)": at_least(0),
        "critic, batch 16, 8 frames 64x64": at_least(60),
    },
    "third_party": {
        "tasks on which all commands work": at_least(6),
        "reports that recommend what is clearly not best in truth": at_most(0),
    },
    "triage_budget": {
        "wide: rollouts, uniform over halving at 100": at_least(8),
        "narrow: rollouts, uniform over halving at 100": at_least(8),
        "sparse: rollouts, uniform over halving at 100": at_least(8),
    },
    "triage_fidelity": {
        "success: pearson": at_least(0.95),
        "success: mmrv": at_most(0.05),
        "success: absolute mean bias": at_most(0.02),  # reached 0.003; its standard error alone is about 0.006
        "progress: spearman": at_least(0.97),
        "success: recall": at_least(0.8),
        "round-trip gap, mean over checkpoints": at_most(0.05),
    },
    "triage_kill": {
        "same ranking digest and rollouts after a kill": at_least(50),
        "finished rollouts computed again": at_most(0),
        "same with 1 and 2 workers": at_least(1),
    },
    "world_fidelity": {
        "block error at 16 steps": at_most(5),
        "block error at 32 steps": at_most(14),
        "orientation error at 16 steps": at_most(10),
    },
    "world_validity": {
        "worlds": at_least(12),
        "stated 90 % bounds: distance of that from 90 %": at_most(5),
        "spread against error, Spearman, median": at_least(0.6, accepted=_SPREAD),
        "spread against error, Spearman, lowest": at_least(0.3, accepted=_SPREAD),
        "worlds whose mean spread rises with the horizon": at_least(100, accepted=_FALLS),
        "worlds called usable that do not beat copying": at_most(0),
    },
    "world_speed": {  # machines differ: 20 % below the slower of two, 24,300 and 16,900, 7,100 and 4,500
        "latent steps per core-second, batch 64": at_least(13_500),
        "decoded steps per core-second, batch 64": at_least(3_600),
        "Gymnasium over the bare world's step and decode": at_most(0.1),
        "Gymnasium overhead at batch 1, %": at_most(15),
        "triage over bare world, decode and policy": at_most(0.1),
        "latent steps per core-second, batch 64: StructuredTokenizer, 64 px": at_least(25_000, accepted=_SPEED),
        "decoded steps per core-second, batch 64: StructuredTokenizer, 64 px": at_least(1_000),
    },
}
