"""What a run of `search_quality.py` found, as JSON, Markdown and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LOOKS = ("5", "10", "20", "30", "60")


def write_report(found: Mapping[str, Any], stem: Path) -> None:
    """`stem`.json, .md and, where there are curves to draw, .svg."""
    stem.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text("\n".join(_lines(found, stem.name)) + "\n", encoding="utf-8")
    if found.get("plot"):
        _draw(found["plot"], stem.with_suffix(".svg"))


def _lines(found: Mapping[str, Any], name: str) -> list[str]:
    facts = found["conditions"]
    lines = ["# How many epochs does a search need?", "", *_INTRODUCTION, ""]
    lines += [f"{facts['workers']} workers, {facts['seeds']} seeds a table and contender; " + _versions(facts), ""]
    lines += [f"Skipped: {each}." for each in found["skipped"]]
    if found.get("plot"):
        lines += [f"![mean regret over epochs]({name}.svg)", ""]
    if found["others"]:
        lines += ["## In short", "", *_summary(found), ""]
    for group, figures in found["groups"].items():
        lines += [f"## {_GROUPS.get(group, group)}", "", *_table(figures), ""]
    if found.get("tasks"):
        lines += ["## Task by task: mean regret after 10 trainings", "", *_tasks(found["tasks"]), ""]
    if found.get("against_stock"):
        lines += ["## Against Ray OptunaSearch + ASHA", ""]
        lines += [
            "Tables whose mean regret differs by more than 2 standard errors, after 10 and after 20 trainings.",
            "",
        ]
        lines += [*_against(found["against_stock"]), ""]
    if found["others"]:
        lines += ["## What else was tried", "", *_OTHERS, "", *_others(found["others"]), ""]
    if found["robustness"]:
        lines += ["## Other conditions", "", *_ROBUSTNESS, "", *_cases(found["robustness"]), ""]
    for study, figures in found["recorded"].items():
        lines += [f"## Our own `{study}`", "", *_recorded(figures), ""]
    return lines[:-1]


def _summary(found: Mapping[str, Any]) -> list[str]:
    """What the tables say."""
    held_out = found["groups"]["held out"]
    main = {name: _speed(each) for name, each in held_out.items()}
    other = {name: _speed(each["held out"]) for name, each in found["others"].items()}
    two = _speed(found["robustness"]["as above"]["random + standing"])
    against = found["against_stock"]
    worse = [len(against[f"{name} + standing"]["worse"]) for name in ("TPE", "trees", "random")]
    compared = against["TPE + standing"]["comparisons"]
    late = [held_out[f"{name} + standing"]["regret"]["30"] for name in ("TPE", "random")]
    text = f"""\
Speed-ups on the 8 held-out tasks, 95 % intervals in brackets.

- The standing rule helps: random search is at {main["random + standing"]} with it, and at
  {main["random + ASHA (2, 3)"]} with ASHA (2, 3).
- Optuna's TPE costs speed here: {main["TPE + standing"]} with the standing rule, {main["TPE + ASHA (2, 3)"]} with
  ASHA (2, 3). It is no better told that stopped trials were completed
  ({other["TPE told stopped trials as completed + standing"]}), with Scott's widths
  ({other["TPE with Scott's widths + standing"]}), or with half of its trials random
  ({other["TPE, half of it random + standing"]}). It pays late: after 30 trainings its regret is {late[0]:.3f}, random
  search's {late[1]:.3f}.
- A model of where every trial stands helps most: trees are at {main["trees + standing"]} with the standing rule, but at
  {other["trees + ASHA (2, 3)"]} with ASHA (2, 3). The rule and the sampler need each other.
- Stock Ray OptunaSearch + ASHA is at {main["Ray OptunaSearch + ASHA"]}. Of {compared} comparisons (below), TPE +
  standing is worse than it beyond noise in {worse[0]}, trees + standing in {worse[1]}, random + standing in {worse[2]}.
- Pausing and promoting is no decisive gain: {other["random + ASHA (2, 3) that pauses and promotes"]}.
- On AlexNet at its own epochs, where curves cross, no contender is clearly ahead. A reduction factor of 3 is faster on
  the text tasks ({other["random + standing, reduction factor 3"]}, where 2 is at {two}; half of the seeds), but on
  AlexNet it lost good trials while the rule was chosen, so that 2 is the default.
- 13 configurations, as in our own study at the end, are too few: a rule that stops most of them ends with less."""
    return text.splitlines()


def _versions(facts: Mapping[str, Any]) -> str:
    return (
        ", ".join(f"{name} {facts[name]}" for name in ("fmasearch", "python", "optuna", "ray") if name in facts) + "."
    )


def _table(figures: Mapping[str, Any]) -> list[str]:
    lines = [_row(["", "speed-up", "95 %", *(f"regret at {n}" for n in LOOKS), "trials"]), "|---|" + "---:|" * 8]
    for contender, each in figures.items():
        at = [f"{each['regret'][n]:.3f}" if n in each["regret"] else "–" for n in LOOKS]
        speed, interval = _speed(each).split(" ", maxsplit=1)
        lines.append(_row([contender, speed, interval.strip("()"), *at, f"{each['trials']:.0f}"]))
    return lines


def _tasks(tasks: Mapping[str, Mapping[str, float]]) -> list[str]:
    names = list(next(iter(tasks.values())))
    lines = [_row(["task", *names]), "|---|" + "---:|" * len(names)]
    return lines + [_row([task, *(f"{each[name]:.3f}" for name in names)]) for task, each in tasks.items()]


def _others(others: Mapping[str, Any]) -> list[str]:
    groups = list(next(iter(others.values())))
    lines = [_row(["", *groups]), "|---|" + "---:|" * len(groups)]
    return lines + [_row([name, *(_speed(each[group]) for group in groups)]) for name, each in others.items()]


def _cases(cases: Mapping[str, Any]) -> list[str]:
    names = list(next(iter(cases.values())))
    lines = [_row(["", *names]), "|---|" + "---:|" * len(names)]
    return lines + [_row([case, *(_speed(each[name]) for name in names)]) for case, each in cases.items()]


def _recorded(figures: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{figures['configurations']} configurations x {figures['epochs']} epochs, 2 workers: too few to search in; "
        "what each spends until it has the best that it will find.",
        "",
        _row(["", "epochs to its best", "regret of it"]),
        "|---|---:|---:|",
    ]
    for name, each in figures["contenders"].items():
        lines.append(_row([name, f"{each['epochs to it']:.0f}", f"{each['regret at the end']:.3f}"]))
    return lines


def _speed(figures: Mapping[str, Any]) -> str:
    low, high = figures["interval"]
    return f"{'' if figures['reached'] else '<'}{figures['speed_up']:.1f} ({low:.1f} – {high:.1f})"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _draw(lines: Mapping[str, Any], file: Path) -> None:
    figure, axes = plt.subplots(figsize=(9, 5.5))
    for (name, line), colour in zip(lines.items(), plt.get_cmap("tab10").colors, strict=False):
        ours = "standing" in name
        axes.plot(line["trainings"], line["mean"], label=name, color=colour, linewidth=2.2 if ours else 1.2)
        low = [max(mean - 2 * error, 1e-3) for mean, error in zip(line["mean"], line["error"], strict=True)]
        high = [mean + 2 * error for mean, error in zip(line["mean"], line["error"], strict=True)]
        axes.fill_between(line["trainings"], low, high, color=colour, alpha=0.12, linewidth=0)
    level = next(iter(lines.values()))["mean"][-1]
    axes.axhline(level, color="grey", linestyle=":", linewidth=1)
    axes.set(xscale="log", yscale="log", ylim=(level / 8, 1.05), xlim=(0.8, 60))
    ticks = [1, 2, 5, 10, 20, 40, 60]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    marks = [each for each in (0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0) if each > level / 8]
    axes.set_yticks(marks, [str(mark) for mark in marks])
    axes.minorticks_off()
    axes.set_xlabel("epochs of all trials, in full trainings")
    axes.set_ylabel("mean normalised regret")
    axes.set_title(
        "8 held-out tasks; bands: 2 standard errors over seeds; dotted: random search after 60 trainings", size=9
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower left")
    figure.tight_layout()
    matplotlib.rcParams["svg.hashsalt"] = "fmasearch"
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


_GROUPS = {
    "developed on": "4 tasks on which the rule was chosen",
    "held out": "8 tasks held out",
    "all 12": "All 12 tasks",
    "alexnet": "AlexNet on ImageNet, trials of 20 to 100 epochs",
    "alexnet, 20 steps": "AlexNet on ImageNet, at 20 steps of each schedule",
}
_INTRODUCTION = """\
Searches replayed over recorded learning curves, by `benchmarks/search_quality.py`: asynchronous workers draw
configurations from a table, an epoch costs one unit, and a rule hears of every trial's best loss so far after every
epoch. Nothing is trained, and no second is a clock's. Regret: 0 is the best loss of the table, 1 the median of
trainings to the end. *Speed-up*: epochs that random search without stopping takes for 60 trainings, over those that a
contender takes until its mean regret is as low; `<` where it was not within its budget. 95 % by bootstrap over
tables, and over seeds in each. *Regret at n*: after as many epochs as n full trainings.

Curves: TaskSet's RNN tasks on IMDB (Metz et al. 2020) as published with DyHPO (Apache-2.0): 12 tasks x 1,000
configurations of Adam's 8 hyperparameters x 51 evaluations, validation loss; the 1,000 are the same for all 12, and the
tasks are alike. AlexNet on ImageNet from opda (Lourie et al., CC BY-SA 4.0): 512 configurations, of which 147 diverge.
No curve is part of this repository. The rule was chosen on 4 of the tasks and on AlexNet; a first grid of variants had
been printed for all 12 as well. Divergence ends a trial at once for every contender, as it does in our studies.

*ASHA (2, 3)*: grace period and reduction factor; Ray's defaults are (1, 4). *Ray OptunaSearch + ASHA*: Ray's default
sampler and scheduler, stopped trials told as completed. *Optuna*: its default sampler and pruners; verdicts of ours
were compared with theirs. *TPE*: Optuna 5's multivariate estimator, whose densities ours equal, with candidates drawn
from the table instead of the space, so that no proposal has to be moved to a row far away; stopped trials are told as
pruned, with their curves. *standing*: `fmasearch.pruning.standing`. *trees*: the model
of `fmasearch.searcher.trees`, its candidates drawn likewise.""".splitlines()
_OTHERS = """\
Speed-up within 20 trainings, over half of the seeds. Only the last row needs trials that pause.""".splitlines()
_ROBUSTNESS = """\
Speed-up on the 8 held-out tasks within 20 trainings, over half of the seeds; random search under the same conditions is
the measure each time, with neither stopping nor patience. Shorter trials are the first epochs of the same
curves.""".splitlines()


def _against(found: Mapping[str, Any]) -> list[str]:
    lines = [_row(["", "better", "worse"]), "|---|---:|---|"]
    for name, each in found.items():
        share = f"{len(each['worse'])}" + (": " + ", ".join(each["worse"]) if each["worse"] else "")
        lines.append(_row([name, f"{each['better']} of {each['comparisons']}", share]))
    return lines
