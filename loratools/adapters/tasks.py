"""The task that an adapter is for, by the model's class, and the modules that PEFT then saves by itself."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["saved_by_task", "task_type"]

_TASKS = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}

_TEXT_TO_TEXT = re.compile(
    r"(M?T5|UMT5|LongT5|SwitchTransformers|M?Bart|PLBart|BigBirdPegasus|Pegasus|PegasusX|Blenderbot|M2M100|LED|NllbMoe"
    r"|ProphetNet|FSMT)ForConditionalGeneration$|MarianMTModel$"
)
"""Classes that take token ids on both sides: PEFT's wrapper for the task passes just these. Not Whisper's."""

_SAVED = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
"""What PEFT adds to `modules_to_save` of a task (0.21, `PeftModelForSequenceClassification` and its kin)."""


def task_type(config: Mapping[str, Any]) -> str | None:
    """PEFT's `task_type` for the class that `architectures` names; None for one without a task."""
    architectures = config.get("architectures") or [""]
    name = str(architectures[0])
    if _TEXT_TO_TEXT.match(name):
        return "SEQ_2_SEQ_LM"
    return next((task for ending, task in _TASKS.items() if name.endswith(ending)), None)


def saved_by_task(task: str | None, modules: Collection[str]) -> tuple[str, ...]:
    """The outermost of the modules that PEFT wraps and loads for a task, listed by the adapter or not.

    PEFT takes each whose name *ends* in one of the task's words: `pre_classifier` too.
    """
    words = _SAVED.get(task or "", ())
    found = sorted(module for module in modules if module.endswith(words)) if words else []
    return tuple(name for name in found if not any(name.startswith(f"{other}.") for other in found))
