import io

import pytest
from rich.console import Console

from rflbat.cli.display import RECENT, LiveProgress, Pace, PlainProgress, make_display
from rflbat.simulation.callbacks import CallbackBase


def record(number, **changes):
    rates = {"accuracy": 0.873, "attack_success_rate": 0.012, "kept": 90, "dropped": 11, "nonfinite": 0, "seconds": 0.5}
    return {"round": number} | rates | changes


def terminal(width=80, color_system=None, no_color=False):
    file = io.StringIO()
    return Console(file=file, force_terminal=True, width=width, color_system=color_system, no_color=no_color)


def play(display, records, rounds=63):
    with display:
        display.on_start({"config": {"rounds": rounds}})
        for line in records:
            display.on_round(line)
        display.on_end({"accuracy": 0.9})


def last_frame(console):
    return console.file.getvalue().split("\x1b[2K")[-1]


def test_the_display_fits_the_console():
    pipe = Console(file=io.StringIO())
    assert type(make_display(terminal(), quiet=False)) is LiveProgress
    assert type(make_display(pipe, quiet=False)) is PlainProgress
    assert type(make_display(pipe, quiet=True)) is CallbackBase
    assert type(make_display(terminal(), quiet=True)) is CallbackBase


@pytest.mark.parametrize("console", [terminal(), Console(file=io.StringIO())], ids=["terminal", "pipe"])
def test_quiet_writes_nothing(console):
    play(make_display(console, quiet=True), [record(number) for number in range(3)])
    assert console.file.getvalue() == ""


def test_plain_is_one_line_per_evaluated_round(capsys):
    console = Console(file=io.StringIO(), width=20)
    unevaluated = {"accuracy": None, "attack_success_rate": None}
    play(make_display(console, quiet=False), [record(n, **({} if n % 2 else unevaluated)) for n in range(5)], rounds=5)
    assert console.file.getvalue().splitlines() == [
        "round 2/5  accuracy 87.3 %  attack success 1.2 %  kept 90 dropped 11  2.00 rounds/s  0:00:02 left",
        "round 4/5  accuracy 87.3 %  attack success 1.2 %  kept 90 dropped 11  2.00 rounds/s  0:00:00 left",
    ]
    assert capsys.readouterr() == ("", "")


def test_plain_lines_have_no_escape_codes_even_on_a_colourful_console():
    console = terminal(color_system="truecolor")
    play(PlainProgress(console), [record(0)])
    assert "\x1b" not in console.file.getvalue()


def test_what_is_unusual_is_said():
    console = Console(file=io.StringIO())
    play(PlainProgress(console), [record(0, attack_success_rate=None, nonfinite=3)])
    assert "accuracy 87.3 %  kept 90 dropped 11 (3 non-finite)" in console.file.getvalue()
    assert "discarded" not in console.file.getvalue()
    play(PlainProgress(console), [record(0, move_discarded=True)])
    assert "kept 90 dropped 11, update discarded" in console.file.getvalue()


def test_live_shows_the_last_state(capsys):
    console = terminal()
    records = [*(record(number) for number in range(40)), record(40, accuracy=None, kept=70, dropped=31, seconds=0.5)]
    play(LiveProgress(console), records)
    frame = last_frame(console)
    assert "round 41/63" in frame
    assert "2.00 rounds/s 0:00:11 left" in frame
    assert "accuracy 87.3 %  attack success 1.2 %  kept 70 dropped 31" in frame
    assert capsys.readouterr() == ("", "")


def test_live_keeps_to_two_lines_on_a_narrow_terminal():
    console = terminal(width=40)
    play(LiveProgress(console), [record(1599, nonfinite=100)], rounds=1600)
    lines = last_frame(console).split("\n")
    assert lines[0].startswith("\x1b[?25l") or "round" in lines[0]
    assert [bool(line.strip()) for line in lines[:2]] == [True, True]
    assert len(lines) == 3


@pytest.mark.parametrize("no_color", [False, True])
def test_live_respects_no_color(no_color):
    console = terminal(no_color=no_color, color_system="standard")
    play(LiveProgress(console), [record(0)])
    assert ("\x1b[32m" in console.file.getvalue()) is not no_color


def test_a_broken_run_gives_the_terminal_back():
    console = terminal()
    display = LiveProgress(console)

    def broken():
        with display:
            display.on_start({"config": {"rounds": 63}})
            display.on_round(record(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert console.file.getvalue().count("\x1b[?25l") == console.file.getvalue().count("\x1b[?25h") == 1
    assert not display.live.is_started
    display.close()


def test_a_resumed_run_counts_only_the_rounds_it_ran():
    pace = Pace(rounds=101)
    pace.add(record(99, seconds=4.0))
    assert (pace.done, pace.speed(), pace.left()) == (100, "4.0 s/round", "0:00:04 left")


def test_the_pace_forgets_slow_first_rounds():
    pace = Pace(rounds=1001)
    pace.add(record(0, seconds=60.0))
    assert pace.left() == "16:40:00 left"
    for number in range(1, RECENT + 1):
        pace.add(record(number, seconds=0.25))
    assert pace.speed() == "4.00 rounds/s"
    assert pace.left() == "0:04:05 left"


def test_a_clock_that_stands_still_is_no_error():
    pace = Pace(rounds=3)
    pace.add(record(0, seconds=0.0))
    assert (pace.speed(), pace.left()) == ("– rounds/s", "0:00:00 left")
