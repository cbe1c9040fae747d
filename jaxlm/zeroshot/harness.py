"""A model → what lm-evaluation-harness runs.

    import jaxlm, lm_eval
    from jaxlm.zeroshot.harness import adapter
    lm_eval.simple_evaluate(adapter(jaxlm.load("runs/gpt")), tasks=["lambada_openai"])

The same tokens are scored as by the harness's own `hf` model on an export: an empty
context stands for <|endoftext|>, a long one is truncated on the left, and running text
is read in windows side by side.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxlm.config.checks import optional
from jaxlm.generate.sampling import Sampling
from jaxlm.open import Model
from jaxlm.scoring import Scorer, Scoring
from jaxlm.types import UserError, without_notes
from jaxlm.zeroshot.protocol import continued

_LONGEST = 256  # tokens of an answer, the harness's default
_EXTRA = "'jaxlm[zeroshot]'"


def adapter(model: Model) -> Any:
    """The model as an `lm_eval.api.model.LM`, with its three methods."""
    harness = optional("lm_eval.api.model", "the harness", _EXTRA)
    scorer = Scorer(model.module, model.params, model.tokenizer)

    def score(texts: Sequence[str], contexts: Sequence[str]) -> list[Any]:
        model.check_heads()
        with without_notes():
            return scorer.score(texts, contexts, Scoring())

    class Adapter(harness.LM):  # type: ignore[misc]
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            contexts, texts = zip(*(each.args for each in requests), strict=True)
            found = score(texts, contexts)
            return [(each.total, bool(each.likeliest.all())) for each in found]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            texts = [text for (text,) in (each.args for each in requests)]
            return [each.total for each in score(texts, [""] * len(texts))]

        def generate_until(self, requests: list[Any]) -> list[str]:
            found = [""] * len(requests)
            asked = [_sampling(model, each.args[1]) for each in requests]
            for sampling in dict.fromkeys(asked):
                numbers = [i for i, each in enumerate(asked) if each == sampling]
                prompts = [requests[i].args[0] for i in numbers]
                texts = continued(model, prompts, sampling)
                for i, text in zip(numbers, texts, strict=True):
                    found[i] = text
            return found

    return Adapter()


def _sampling(model: Model, options: dict[str, Any]) -> Sampling:
    until = options.get("until") or ()
    stop = (until,) if isinstance(until, str) else tuple(each for each in until if each)
    drawn = options.get("do_sample", False)
    temperature = float(options.get("temperature", 1.0)) if drawn else 0.0
    most = int(options.get("max_gen_toks", _LONGEST))
    most = min(most, model.config.max_length - 1)  # type: ignore[union-attr]
    return Sampling(temperature=temperature, max_tokens=most, stop=stop)


def evaluate(
    model: Model, tasks: Sequence[str], limit: int | None = None
) -> dict[str, dict[str, float]]:
    """Figures by task, of tasks named or in .yaml files."""
    lm_eval = optional("lm_eval", "the harness", _EXTRA)
    tasks_of = optional("lm_eval.tasks", "the harness", _EXTRA).TaskManager
    folders = {str(Path(task).parent) for task in tasks if task.endswith(".yaml")}
    names = [Path(task).stem if task.endswith(".yaml") else task for task in tasks]
    manager = tasks_of(include_path=sorted(folders) or None)
    for name in {*names} - {*manager.all_tasks}:
        raise UserError(f"lm-evaluation-harness has no task {name!r}")
    how = {"task_manager": manager, "limit": limit, "bootstrap_iters": 0}
    results = lm_eval.simple_evaluate(adapter(model), tasks=names, **how)["results"]
    return {
        task: {
            k.removesuffix(",none"): v for k, v in each.items() if isinstance(v, float)
        }
        for task, each in results.items()
    }
