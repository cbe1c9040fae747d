"""All settings of a run, as frozen dataclasses of plain data. Imports no jax.

`configs/NAME.py` composes settings (`get_config() -> RunConfig`), the command line
overrides fields by dotted names, and the run directory keeps the result as JSON.
"""

from jaxlm.config.files import difference, load_config
from jaxlm.config.model import (
    BertConfig,
    BilmData,
    ElmoConfig,
    GptConfig,
    MaskedData,
    ModelConfig,
    StreamData,
    bert,
    elmo,
    gpt1,
    gpt2,
    modernbert,
)
from jaxlm.config.run import (
    LogConfig,
    MeshConfig,
    OptimConfig,
    Phase,
    RunConfig,
    TextConfig,
)
from jaxlm.config.task import FinetuneConfig, TaskConfig
