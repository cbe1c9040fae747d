"""Open what is on disk: a run, model or task directory → a model in memory."""

from jaxlm.open.directory import is_task, kept_steps, load, model_of, open_task
from jaxlm.open.initial import check_init, check_vocabulary, other_settings, pretrained
from jaxlm.open.model import Guess, Model
from jaxlm.open.run import Run
