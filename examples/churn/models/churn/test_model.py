"""Tests of the model's mathematics and of what the scripts refuse; `python3 -m unittest` in this folder."""

import json
import math
import os
import random
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import baseline
import logistic
import metrics
import scores
from customers import COLUMNS, Customer, is_held_back, read_export, read_table, write_table
from ports import BadInput
from report import lift_rows, table

HERE = Path(__file__).resolve().parent
WAREHOUSE = HERE.parent.parent / "data" / "warehouse"
EXPORT = next(WAREHOUSE.glob("customers/*/customers.csv"))


class Solve(unittest.TestCase):
    def test_the_solution_satisfies_the_system(self) -> None:
        random.seed(7)
        root = [[random.gauss(0, 1) for _ in range(6)] for _ in range(6)]
        matrix = [[sum(a * b for a, b in zip(r, s)) + (i == j) for j, s in enumerate(root)] for i, r in enumerate(root)]
        wanted = [random.gauss(0, 1) for _ in range(6)]
        right = [sum(a * x for a, x in zip(row, wanted)) for row in matrix]
        for found, value in zip(logistic.solve(matrix, right), wanted, strict=True):
            self.assertAlmostEqual(found, value, places=9)

    def test_a_singular_matrix_is_refused(self) -> None:
        with self.assertRaisesRegex(ValueError, "row 1"):
            logistic.solve([[1.0, 2.0], [2.0, 4.0]], [1.0, 1.0])


class Logistic(unittest.TestCase):
    def test_sigmoid_and_loss_do_not_overflow(self) -> None:
        self.assertEqual(logistic.sigmoid(-1e4), 0.0)
        self.assertEqual(logistic.sigmoid(1e4), 1.0)
        self.assertAlmostEqual(logistic.log_loss(1e4, False), 1e4)
        self.assertAlmostEqual(logistic.log_loss(0.0, True), math.log(2))

    def test_the_fit_of_a_table_of_two_groups_is_their_log_odds(self) -> None:
        # With one 0/1 column and next to no penalty the fitted rates are the observed ones: 1/4 and 3/5.
        rows = [[0.0]] * 4 + [[1.0]] * 5
        labels = [True, False, False, False, True, True, True, False, False]
        model = logistic.fit(rows, labels, ridge=1e-9)
        self.assertAlmostEqual(model.probability([0.0]), 1 / 4, places=6)
        self.assertAlmostEqual(model.probability([1.0]), 3 / 5, places=6)

    def test_the_gradient_is_zero_at_the_fit(self) -> None:
        random.seed(11)
        rows = [[random.gauss(3, 5), random.random(), 1.0] for _ in range(300)]
        labels = [random.random() < logistic.sigmoid(0.4 * r[0] - 2 * r[1]) for r in rows]
        model = logistic.fit(rows, labels, ridge=0.5)
        errors = [y - model.probability(r) for r, y in zip(rows, labels)]
        self.assertAlmostEqual(sum(errors), 0.0, places=6)
        for j in range(3):
            scaled = [(r[j] - model.means[j]) / model.scales[j] for r in rows]
            slope = sum(e * x for e, x in zip(errors, scaled)) - 0.5 * model.weights[j]
            self.assertAlmostEqual(slope, 0.0, places=6)

    def test_separable_rows_get_finite_weights(self) -> None:
        model = logistic.fit([[float(x)] for x in range(10)], [x >= 5 for x in range(10)], ridge=0.1)
        self.assertGreater(model.probability([9.0]), 0.95)
        self.assertLess(model.probability([0.0]), 0.05)

    def test_what_cannot_be_learned_from_is_refused(self) -> None:
        for rows, labels, ridge in [([[1.0]], [True], 1.0), ([[1.0], [2.0]], [True, False], 0.0), ([], [], 1.0)]:
            with self.assertRaises(ValueError):
                logistic.fit(rows, labels, ridge)


class Metrics(unittest.TestCase):
    def test_auc_is_the_share_of_pairs_in_order(self) -> None:
        random.seed(3)
        values = [random.randrange(8) / 8 for _ in range(60)]
        labels = [random.random() < 0.4 for _ in values]
        pairs = [(p > n) + (p == n) / 2 for p, a in zip(values, labels) if a for n, b in zip(values, labels) if not b]
        self.assertAlmostEqual(metrics.auc(values, labels), sum(pairs) / len(pairs), places=12)

    def test_auc_of_one_label_is_refused(self) -> None:
        with self.assertRaises(ValueError):
            metrics.auc([0.1, 0.2], [True, True])

    def test_bins_hold_every_row_once_and_fall(self) -> None:
        values = [i / 103 for i in range(103)]
        found = metrics.bins(values, [v > 0.5 for v in values], 10)
        self.assertEqual(sum(b.rows for b in found), 103)
        self.assertEqual(sum(b.positives for b in found), sum(v > 0.5 for v in values))
        self.assertEqual([b.mean_score for b in found], sorted((b.mean_score for b in found), reverse=True))
        self.assertEqual(metrics.bins([], [], 10), [])

    def test_the_last_row_of_a_lift_table_reaches_every_leaver(self) -> None:
        rows = lift_rows(metrics.bins([i / 40 for i in range(40)], [i > 30 for i in range(40)], 10))
        self.assertEqual(rows[-1][-1], "100.0%")
        self.assertEqual(rows[0][4], "4.44")

    def test_a_table_escapes_its_cells(self) -> None:
        self.assertIn("&lt;b&gt;", table(["h"], [["<b>"]]))


class Customers(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.export = read_export(EXPORT)

    def refused(self, old: str, new: str, message: str) -> None:
        """Checks that the head of the export is refused once `old` in it became `new`."""
        head = "".join(EXPORT.read_text(encoding="utf-8").splitlines(keepends=True)[:3])
        self.assertIn(old, head)
        path = self.folder / "bad.csv"
        path.write_text(head.replace(old, new), encoding="utf-8")
        with self.assertRaisesRegex(BadInput, message):
            read_export(path)

    def test_the_export_is_whole(self) -> None:
        self.assertEqual(len(self.export), 5000)
        self.assertEqual(sum(c.churned for c in self.export), 707)
        self.assertEqual({c.region for c in self.export}, {"408", "415", "510"})

    def test_a_table_reads_back_as_it_was_written(self) -> None:
        write_table(self.folder / "t.csv", self.export)
        self.assertEqual(read_table(self.folder / "t.csv"), self.export)

    def test_bad_rows_are_refused_with_their_place(self) -> None:
        self.refused("265.1", "many", r"bad\.csv:2: column `total_day_minutes` has 'many'")
        self.refused("265.1", "nan", "not a finite number")
        self.refused("128", "-1", r"bad\.csv:2: column `account_length` has '-1': is below zero")
        self.refused('"no"', '"maybe"', r"bad\.csv:2: column `international_plan` has 'maybe'")
        self.refused('"OH",107,', '"OH",', r"bad\.csv:3: the row has more or fewer cells")
        self.refused("area_code", "zone", "columns are missing: area_code")

    def test_about_one_in_three_is_held_back_and_always_the_same(self) -> None:
        held = [c.id for c in self.export if is_held_back(c.id, "churn-1", 3)]
        self.assertTrue(0.3 < len(held) / len(self.export) < 0.37, len(held))
        self.assertEqual(held[:4], ["C00003", "C00004", "C00006", "C00007"])
        other = [c.id for c in self.export if is_held_back(c.id, "churn-2", 3)]
        self.assertNotEqual(held, other)

    def test_an_unknown_region_names_the_known_ones(self) -> None:
        with self.assertRaisesRegex(BadInput, "region='999'; the data has 408, 415, 510"):
            scores.of_region(self.export, "999")

    def test_baseline_rates_are_higher_for_unhappy_customers(self) -> None:
        rate = baseline.rates(self.export)
        self.assertEqual(len(rate), 4)
        self.assertGreater(rate[False, True], 2 * rate[False, False])


class Pipeline(unittest.TestCase):
    """Runs the scripts one after the other as the engine does: each in a process, by its variables only."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)

    def step(self, script: str, *arguments: str, **inputs: Path) -> subprocess.CompletedProcess[str]:
        """Runs a script; its outputs and result lie below `self.root / script`, for a mapped one by first argument."""
        place = self.root / script / (arguments[0] if arguments[:1] and arguments[0].isdigit() else "")
        (place / "inputs").mkdir(parents=True)
        (place / "outputs").mkdir()
        for name, path in inputs.items():
            (place / "inputs" / name).symlink_to(path)
        variables = os.environ | {
            "WINDLASS_INPUTS": str(place / "inputs"),
            "WINDLASS_OUTPUTS": str(place / "outputs"),
            "WINDLASS_RESULT": str(place / "result.json"),
        }
        command = [sys.executable, "-B", f"{script}.py", *arguments]
        return subprocess.run(command, cwd=HERE, env=variables, capture_output=True, text=True, check=False)

    def ok(self, script: str, *arguments: str, **inputs: Path) -> dict[str, float]:
        done = self.step(script, *arguments, **inputs)
        self.assertEqual(done.returncode, 0, done.stderr)
        place = self.root / script / (arguments[0] if arguments[:1] and arguments[0].isdigit() else "")
        result: dict[str, float] = json.loads((place / "result.json").read_text(encoding="utf-8"))
        return result

    def output(self, script: str, name: str) -> Path:
        return self.root / script / "outputs" / name

    def test_the_whole_pipeline_beats_chance_on_rows_it_never_saw(self) -> None:
        prepared = self.ok("prepare", data=EXPORT.parent)
        self.assertEqual(prepared["rows"], 5000)
        training, holdout, active = (self.output("prepare", n) for n in ("training", "holdout", "active"))
        trained = self.ok("train", training=training, holdout=holdout)
        self.assertGreater(trained["auc"], 0.9)
        self.assertEqual(trained["rows"] + trained["holdout"], 5000)

        collected = self.root / "scores"
        for region in ("408", "415", "510"):
            self.ok("score", region, "--calls", "50", model=self.output("train", "model"), customers=active)
            collected.mkdir(exist_ok=True)
            (collected / region).symlink_to(self.root / "score" / region / "outputs" / "scores")
        rows = scores.read_all(collected)
        self.assertEqual(len(rows), 4293)
        self.assertEqual(sum(r["call"] == "yes" for r in rows), 150)

        reported = self.ok("report", model=self.output("train", "model"), holdout=holdout, scores=collected)
        self.assertAlmostEqual(reported["auc"], trained["auc"], places=6)
        self.assertGreater(reported["lift_first_tenth"], 4.0)
        page = (self.output("report", "report") / "index.html").read_text(encoding="utf-8")
        self.assertIn(f"{trained['auc']:.4f}", page)

        self.ok("baseline", "--regions", "408,510", training=training, customers=active)
        self.assertEqual(sorted(p.name for p in self.output("baseline", "scores").iterdir()), ["408", "510"])

    def test_bad_input_ends_with_code_2_and_one_line(self) -> None:
        done = self.step("prepare")
        self.assertEqual(done.returncode, 2)
        self.assertRegex(done.stderr, r"\Aerror: input `data` is missing at .*\n\Z")

    def test_a_ridge_below_zero_is_refused(self) -> None:
        self.ok("prepare", data=EXPORT.parent)
        done = self.step("train", "--ridge", "-1", training=self.output("prepare", "training"), holdout=self.output("prepare", "holdout"))
        self.assertEqual((done.returncode, done.stderr), (2, "error: ridge must be a positive number, it is -1.0\n"))


class Settings(unittest.TestCase):
    def test_the_clean_table_has_every_field(self) -> None:
        self.assertEqual(COLUMNS, list(Customer.__slots__))


if __name__ == "__main__":
    unittest.main()
