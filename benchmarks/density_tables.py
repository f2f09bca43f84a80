"""The table and the figure of the density benchmark."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pcircuits_diffusion.evaluate import tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WITHIN = 0.005
"""The share of the mark by which a model may fall short and still reach it."""
Sets = Mapping[str, Any]
COLOURS = {"ours": "#1f6fb4", "peers": "#d1495b", "published": "#8a8a8a"}


def rows(sets: Sets) -> list[list[str]]:
    """A line a model, ours and the peers', best ones first; our choice by validation is marked."""
    found = [["data", "model", "valid", "test", "seeds", "settings tried", "parameters", "CPU s"]]
    for name, of in sets.items():
        for side in ("ours", "peers"):
            for model, of_model in sorted(of[side].items(), key=lambda item: -item[1]["mean_valid"]):
                chosen = " (chosen)" if side == "ours" and model == of["chosen"] else ""
                seconds = sum(of_model["seconds"]) / len(of_model["seconds"])
                shown = of_model["setting"] if side == "ours" else {"num_units": of_model["setting"].get("num_units")}
                found.append([name, named(model, shown) + chosen, *_numbers(of_model), f"{seconds:.0f}"])
    return found


def summary(sets: Sets) -> list[list[str]]:
    """A line a data set: our choice beside the published figures and the peers."""
    papers = list(next(iter(sets.values()))["published"])
    peers = list(dict.fromkeys(peer for of in sets.values() for peer in of["peers"]))
    found = [["data", "ours", *papers, *peers, "mark", "within 0.5%"]]
    for name, of in sets.items():
        test = None if of["chosen"] is None else of["ours"][of["chosen"]]["mean_test"]
        here = [f"{of['peers'][peer]['mean_test']:.2f}" if peer in of["peers"] else "-" for peer in peers]
        reached = "-" if test is None else ("yes" if reaches(test, of["mark"]) else "no")
        ours = "-" if test is None else f"{test:.2f}"
        found.append([name, ours, *(f"{of['published'][p]:.2f}" for p in papers), *here, f"{of['mark']:.2f}", reached])
    return found


def origins(sets: Sets) -> str:
    """Which sets were trained with which commit, where there is more than one."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, of in sets.items():
        found.setdefault((str(of["commit"])[:10], of["date"][:10]), []).append(name)
    parts = [f"{', '.join(names)}: commit {commit}, {date}" for (commit, date), names in found.items()]
    return f"Trained at different times: {'; '.join(parts)}." if len(parts) > 1 else ""


def reaches(log_likelihood: float, mark: float) -> bool:
    return log_likelihood >= mark * (1 + WITHIN)


def named(model: str, setting: Mapping[str, Any]) -> str:
    words = {
        "num_units": "K",
        "components": "components",
        "bags": "bags",
        "starts": "starts",
        "repetitions": "repetitions",
    }
    return ", ".join([model, *(f"{words[key]}={setting[key]}" for key in words if key in setting)])


def plain(sets: Sets) -> str:
    return f"{tables.aligned(rows(sets))}\n\n{tables.aligned(summary(sets))}"


def plot(sets: Sets) -> "Figure":
    """Test log-likelihoods, a panel a data set; the dashed line is half a percent below the mark."""
    from matplotlib.figure import Figure

    columns = min(3, len(sets))
    lines = -(-len(sets) // columns)
    figure = Figure(figsize=(4.6 * columns, 2.9 * lines), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, (name, of) in zip(panels, sets.items(), strict=False):
        points = [(who, value, "published") for who, value in of["published"].items()]
        for side in ("peers", "ours"):
            points += [(model, of_model["mean_test"], side) for model, of_model in of[side].items()]
        points.sort(key=lambda point: point[1])
        for place, (_, value, side) in enumerate(points):
            axes.plot(value, place, "o", color=COLOURS[side])
        axes.set_yticks(range(len(points)), [who for who, *_ in points], fontsize=7)
        axes.axvline(of["mark"] * (1 + WITHIN), color="#444444", linewidth=0.8, linestyle="--")
        axes.set_title(name, loc="left", fontsize=10)
        axes.tick_params(axis="x", labelsize=7)
        axes.grid(axis="x", color="#e6e6e6", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(sets) :]:
        axes.set_visible(False)
    for side, colour in COLOURS.items():
        panels[0].plot([], [], "o", color=colour, label=side)
    panels[0].legend(fontsize=7, frameon=False, loc="lower right")
    figure.supxlabel("mean test log-likelihood, nats (right is better)", fontsize=9)
    return figure


def _numbers(of_model: Mapping[str, Any]) -> list[str]:
    scores = [f"{of_model['mean_valid']:.3f}", f"{of_model['mean_test']:.3f}"]
    return [*scores, *(f"{n:,}" for n in (len(of_model["seeds"]), of_model["tried"], of_model["num_parameters"]))]
