"""The README.md of an export: what it is, where it comes from, how it is loaded."""

from pathlib import Path
from typing import Any

from jaxlm.config.model import BertConfig, GptConfig
from jaxlm.text.json_files import read_json

_MISSING = {"mlm": "head of masked words", "nsp": "head of next sentences"}
_TASKS = {
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
    "QuestionAnswering": "question-answering",
    "MultipleChoice": "multiple-choice",
}
# With the front matter that model hubs read.
_CARD = """---
library_name: transformers
pipeline_tag: {task}
tags: [jaxlm]
---

# {name}, by jaxlm

{config.num_layers} layers, {config.d_model} wide, {config.d_ff} in the MLP, \
{config.vocab_size:,} tokens, {config.max_length} positions; {dtype}.
{lacks}
```python
from transformers import AutoTokenizer, {name}

model = {name}.from_pretrained("PATH")
tokenizer = AutoTokenizer.from_pretrained("PATH")
```

## Where it comes from

{origin}

`jaxlm_export.json` has the SHA-256 of every file.
"""


def write_card(
    directory: Path,
    config: BertConfig | GptConfig,
    missing: tuple[str, ...],
    origin: dict[str, Any],
    dtype: str,
) -> None:
    """Write README.md into a model directory that has its config.json."""
    name = read_json(directory / "config.json")["architectures"][0]
    usual = "feature-extraction" if "mlm" in missing else "fill-mask"
    if isinstance(config, GptConfig):
        usual = "text-generation"
    text = _CARD.format(
        task=_TASKS.get(name.partition("For")[2], usual),
        name=name,
        config=config,
        dtype=dtype,
        lacks="".join(f"It has no {_MISSING[head]}.\n" for head in missing),
        origin="\n".join(f"- {key}: {_plain(value)}" for key, value in origin.items()),
    )
    (directory / "README.md").write_text(text)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return str(value)
