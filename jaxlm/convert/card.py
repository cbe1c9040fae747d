"""The README.md of an export: what it is, where it comes from, how it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxlm.config.model import GptConfig, ModelConfig
from jaxlm.text.json_files import read_json

_MISSING = {
    "mlm": "head of masked words",
    "nsp": "head of next sentences",
}
_PIPELINES = {
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
    "QuestionAnswering": "question-answering",
    "MultipleChoice": "multiple-choice",
}


def card(
    directory: Path,
    config: ModelConfig,
    missing: tuple[str, ...],
    origin: dict[str, Any],
    dtype: str,
) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        directory: of the model, with its config.json.
        config: of the model.
        missing: heads that it lacks.
        origin: what is known of how it was made.
        dtype: of its tensors.
    """
    options = read_json(directory / "config.json")
    name = options["architectures"][0]
    task = "text-generation" if isinstance(config, GptConfig) else "fill-mask"
    task = "feature-extraction" if "mlm" in missing else task
    task = _PIPELINES.get(name.partition("For")[2], task)
    shape = (
        f"{config.num_layers} layers, {config.d_model} wide, {config.d_ff} in the MLP, "
        f"{config.vocab_size:,} tokens, {config.max_length} positions"
    )
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {task}",
        "tags: [jaxlm]",
        "---",
        "",
        f"# {name}, by jaxlm",
        "",
        f"{shape}; {dtype}.",
        *(f"It has no {_MISSING[each]}." for each in missing),
        "",
        "```python",
        f"from transformers import AutoTokenizer, {name}",
        "",
        "model = " + f'{name}.from_pretrained("PATH")',
        'tokenizer = AutoTokenizer.from_pretrained("PATH")',
        "```",
        "",
        "## Where it comes from",
        "",
        *(f"- {key}: {_plain(value)}" for key, value in origin.items()),
        "",
        "`jaxlm_export.json` has the SHA-256 of every file.",
    ]
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return str(value)
