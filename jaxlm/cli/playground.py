"""`jaxlm playground DIR`: a page on this machine's own address, to try a model."""

import signal
from dataclasses import dataclass
from typing import Annotated

from jaxlm.cli.arguments import parse
from jaxlm.cli.flags import Positional
from jaxlm.cli.runtime import say, start_jax


@dataclass(frozen=True, kw_only=True)
class Playground:
    """A page to try a model: fill blanks or generate, the nearest words of a word layer
    by layer, and its senses in your own sentences. Only this machine can open it, by
    the address that is printed."""

    directory: Positional[str]
    """Run or model directory."""
    port: Annotated[int, "[0, 65535]"] = 8321
    """Port of the address; 0: one that is free."""
    address: str = "127.0.0.1"
    """Address to listen on; another one than this opens the page to a network, to
    all who know its token."""


def run_playground(argv: list[str]) -> int:
    """The verb `playground`."""
    args = parse(Playground, argv)
    start_jax()
    import jaxlm
    from jaxlm.playground.answers import Answers
    from jaxlm.playground.page import examples, playground
    from jaxlm.playground.server import Server, warm

    answers = Answers(jaxlm.load(args.directory))
    page = playground(answers, args.directory.rstrip("/").rpartition("/")[2])
    with Server(args.address, args.port, page, answers) as server:
        if args.address not in ("127.0.0.1", "::1", "localhost"):
            say(f"warning: {args.address} can be reached from other machines")
        warm(answers, examples(answers))
        print(f"{server.url}\nCtrl-C ends it", flush=True)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("the playground is closed")
        finally:
            signal.signal(signal.SIGINT, before)
    return 0
