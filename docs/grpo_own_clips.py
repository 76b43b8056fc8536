"""GRPO on your own clips and your own question: python docs/grpo_own_clips.py CLIPS MODEL OUT STEPS.

CLIPS has a folder of videos per answer (CLIPS/yes/*.mp4, CLIPS/no/*.mp4). MODEL is a local folder of Qwen-VL or Cosmos-Reason,
or what `worldsim train reason-sft` made. The same command continues a run that was killed; the critic is in OUT/model.
"""

import sys

from worldsim.reason.items.own_clips import ClipItems, Question
from worldsim.reason.items.sources import FolderVideos, skip_unreadable
from worldsim.reason.train.grpo import TrainReasonGrpo, train_reason_grpo
from worldsim.reason.train.rewards import text_of


def ask(clip):
    """Your question about a clip; here its folder is the right answer. None leaves the clip out."""
    return Question(text="Did the robot finish its task?", options=("yes", "no"), answer=clip.policy)


def brief(completions, **columns):
    """A reward of your own, from 0 to 1, beside those for right answers and format. Columns: answer, task, group, item ..."""
    return [max(0.0, 1 - len(text_of(reply)) / 1000) for reply in completions]


if __name__ == "__main__":
    clips, model, out, steps = sys.argv[1:]
    items = ClipItems(skip_unreadable(FolderVideos(clips), shortest=8), ask, frames=8, size=224)
    config = TrainReasonGrpo(data=clips, model=model, out=out, steps=int(steps), cpu=False, shown="video")
    print(train_reason_grpo(config, rewards={"brief": brief}, items=items))
