"""Tests of the forecast; `python3 -m unittest` in this folder."""

import math
import tempfile
import unittest
from datetime import date, timedelta
from pathlib import Path

from forecast import BadInput, backtest, excesses, fading, forecast, of_year, read_series, usual_values

STATION = Path(__file__).resolve().parents[2] / "data/warehouse/weather/seattle/seattle-weather.csv"
FIRST = date(2021, 1, 1)


class Forecast(unittest.TestCase):
    def test_fading_is_found_again(self) -> None:
        self.assertAlmostEqual(fading([0.6**i for i in range(20)]), 0.6, places=12)
        self.assertEqual(fading([0.0, 0.0]), 0.0)

    def test_the_usual_value_of_a_steady_station_is_its_value(self) -> None:
        usual = usual_values(FIRST, [4.5] * 1100)
        self.assertEqual(len(usual), 365)
        self.assertTrue(all(math.isclose(v, 4.5) for v in usual.values()))
        self.assertTrue(all(abs(e) < 1e-9 for e in excesses(usual, FIRST, [4.5] * 1100)))

    def test_a_leap_day_needs_no_leap_year_before_it(self) -> None:
        usual = usual_values(FIRST, [4.5] * 1100)
        self.assertAlmostEqual(forecast(usual, 0.5, date(2024, 2, 28), 6.5, 1), 5.5)

    def test_the_excess_fades_with_the_days(self) -> None:
        usual = {of_year(FIRST + timedelta(days=i)): 10.0 for i in range(20)}
        self.assertAlmostEqual(forecast(usual, 0.5, FIRST, 14.0, 1), 12.0)
        self.assertAlmostEqual(forecast(usual, 0.5, FIRST, 14.0, 3), 10.5)

    def test_the_station_is_forecast_better_than_by_saying_as_today(self) -> None:
        for column in ("temp_max", "wind"):
            error, naive = backtest(*read_series(STATION, column))
            self.assertLess(error, naive, column)

    def test_gaps_and_bad_cells_are_refused_with_their_place(self) -> None:
        head = STATION.read_text(encoding="utf-8").splitlines(keepends=True)[:4]
        cases = [
            (head[:2] + head[3:], r"bad\.csv:3: 2012-01-03 doesn't follow 2012-01-01"),
            ([head[0], head[1].replace("12.8", "warm")], r"bad\.csv:2: could not convert"),
            ([head[0].replace("temp_max", "t")], "columns are missing: temp_max"),
            (head, "3 days are too few"),
        ]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "bad.csv"
            for lines, message in cases:
                path.write_text("".join(lines), encoding="utf-8")
                with self.assertRaisesRegex(BadInput, message):
                    read_series(path, "temp_max")


if __name__ == "__main__":
    unittest.main()
