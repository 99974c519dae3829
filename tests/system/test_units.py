import pytest

from gmdistill.system import units


@pytest.mark.parametrize(
  "num_bytes, said",
  [
    (0, "0 bytes"),
    (999, "999 bytes"),
    (999.7, "1 kB"),
    (1000, "1 kB"),
    (371_000, "371 kB"),
    (999_600, "1 MB"),
    (3.2e9, "3.2 GB"),
    (5e12, "5 TB"),
  ],
)
def test_a_size_is_said_in_units_of_a_thousand(num_bytes, said):
  assert units.size(num_bytes) == said


@pytest.mark.parametrize(
  "count, said", [(7, "7"), (1234, "1.23 k"), (1e6, "1 M"), (2.5e12, "2.5 T")]
)
def test_a_count_is_said_with_three_digits(count, said):
  assert units.number(count) == said


@pytest.mark.parametrize(
  "time, said",
  [
    (0.032, "0.032 s"),
    (9.96, "10 s"),
    (59.4, "59 s"),
    (59.6, "1 min 00 s"),
    (312, "5 min 12 s"),
    (3599.7, "1 h 00 min"),
    (7503, "2 h 05 min"),
  ],
)
def test_a_time_is_said_in_the_unit_that_fits(time, said):
  assert units.seconds(time) == said
