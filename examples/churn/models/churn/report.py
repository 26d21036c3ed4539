"""Writes the report on one training: how well it ranks, lifts and is calibrated, and who to call.

Inputs `model` (JSON), `holdout` (a clean table) and `scores` (folders with `scores.csv`);
output `report`, a folder with `index.html` that needs nothing else to be shown.
"""

import html
from collections.abc import Iterable, Sequence

import metrics
import model_file
import scores
from customers import read_table
from features import features
from logistic import Logistic
from ports import input_file, input_path, output_folder, run, write_result

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430 }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid #d9dee6 }
th:first-child, td:first-child { text-align: left }
svg { width: 100%; height: auto; max-width: 24rem } .note { color: #55606e }
"""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table; every cell is escaped."""
    lines = ["<table>", "<tr>" + "".join(f"<th scope=col>{html.escape(h)}</th>" for h in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table>"])


def lift_rows(bins: Sequence[metrics.Bin]) -> list[list[str]]:
    """Returns one row a tenth: its churn rate, lift over all rows, and the share of leavers reached so far."""
    everyone, left = sum(b.rows for b in bins), sum(b.positives for b in bins)
    reached, rows = 0, []
    for number, b in enumerate(bins, start=1):
        reached += b.positives
        lift = b.rate / (left / everyone)
        rows.append([str(number), str(b.rows), f"{b.mean_score:.3f}", f"{b.rate:.3f}", f"{lift:.2f}", f"{reached / left:.1%}"])
    return rows


def calibration_plot(bins: Sequence[metrics.Bin]) -> str:
    """Returns a picture of predicted against observed rate; on the diagonal the two agree."""
    dots = "".join(
        f'<circle cx="{30 + 260 * b.mean_score:.1f}" cy="{280 - 260 * b.rate:.1f}" r="5" fill="#1f6feb"/>' for b in bins
    )
    return (
        '<svg viewBox="0 0 310 320" role="img" aria-label="predicted against observed churn rate by tenth">'
        '<path d="M30 20V280H290" fill="none" stroke="#8a94a3"/>'
        '<path d="M30 280L290 20" stroke="#c3cad4" stroke-dasharray="4 4"/>' + dots
        + '<g font-size="11" fill="#55606e"><text x="125" y="308">predicted rate</text>'
        '<text x="30" y="294">0</text><text x="283" y="294">1</text><text x="16" y="26">1</text>'
        '<text x="36" y="16">observed rate</text></g></svg>'
    )


def weight_rows(model: Logistic, names: Sequence[str]) -> list[list[str]]:
    """Returns the features by weight, the heaviest first; a weight is per standard deviation."""
    order = sorted(zip(names, model.weights, strict=True), key=lambda pair: -abs(pair[1]))
    return [[name, f"{weight:+.3f}"] for name, weight in order]


def region_rows(rows: Iterable[dict[str, str]]) -> list[list[str]]:
    """Returns one row a region: customers, how many are expected to leave, how many to call."""
    regions: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        regions.setdefault(row["region"], []).append(row)
    return [
        [
            region,
            str(len(found)),
            f"{sum(float(r['probability']) for r in found):.1f}",
            str(sum(r["call"] == "yes" for r in found)),
        ]
        for region, found in sorted(regions.items())
    ]


def main() -> None:
    holdout = read_table(input_file("holdout", "*.csv"))
    model = model_file.load(input_file("model", "*.json"), holdout[0])
    probabilities = [model.probability(row) for row in model_file.design(holdout)]
    labels = [c.churned for c in holdout]
    auc, brier = metrics.auc(probabilities, labels), metrics.brier(probabilities, labels)
    tenths = metrics.bins(probabilities, labels, 10)
    lift = lift_rows(tenths)
    names = list(features(holdout[0]))

    page = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Churn model</title><style>{STYLE}</style><h1>Churn model</h1>",
        f"<p>AUC <strong>{auc:.4f}</strong>, Brier score {brier:.4f}, on {len(holdout)} customers that the model"
        f" had not seen; {sum(labels)} of them left.</p>",
        "<h2>Lift</h2><p class=note>Customers held back, the likeliest to leave first, in ten parts.</p>",
        table(["tenth", "customers", "predicted", "observed", "lift", "leavers reached"], lift),
        "<h2>Calibration</h2>",
        calibration_plot(tenths),
        "<h2>Customers still with us</h2>",
        table(["region", "customers", "expected to leave", "to call"], region_rows(scores.read_all(input_path("scores")))),
        "<h2>What weighs</h2>",
        table(["feature", "weight"], weight_rows(model, names)),
    ]
    (output_folder("report") / "index.html").write_text("\n".join(page) + "\n", encoding="utf-8")
    print(f"report written: AUC {auc:.4f}, lift of the first tenth {lift[0][4]}", flush=True)
    write_result({"auc": round(auc, 6), "lift_first_tenth": float(lift[0][4])})


if __name__ == "__main__":
    run(main)
