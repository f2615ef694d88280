"""What a run says when nobody listens any more."""

import os
import sys

from hippo.training.processes import say


def test_a_run_goes_on_where_its_output_is_closed(monkeypatch, capfd):
    """As after `train.py | head`."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        say("one")
        say("two")
    assert capfd.readouterr().err.count("the standard output is closed (Broken pipe); the run goes on") == 1
