"""`jaxlm predict DIR --data FILE --out FILE`: answers of a fine-tuned run."""

from dataclasses import dataclass, field

import tyro

from jaxlm.cli.arguments import Columns, parse
from jaxlm.cli.runtime import start_jax


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Answer every row of a file with the best checkpoint; labels are not read."""

    directory: tyro.conf.Positional[str]
    """Run directory of jaxlm finetune; of several seeds, the best one answers."""
    data: str
    """File of the form that the model was trained on."""
    out: str
    """File to write."""
    batch: int = 32
    """Rows at a time."""
    task: Columns = field(default_factory=Columns)


def run(argv: list[str]) -> int:
    """The verb."""
    args = parse(Predict, "predict", argv)
    start_jax()
    from jaxlm.open.directory import open_task

    finetuned = open_task(args.directory, args.task.given())
    count = finetuned.predict(args.data, args.out, batch=args.batch)
    where = f"{finetuned.directory} at step {finetuned.step}"
    print(f"{args.out}: {count:,} answers, by {where}")
    return 0
